"""LLaDA, Dream and iLLaDA as transformers' models: loading and saving in the released layouts, and the Auto classes.

Imports transformers, which takes seconds; decoding does without (loading.load_for_inference).
"""

import json
from dataclasses import dataclass

from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from cd4lm.model.checkpoint import check_copies, check_folder, check_loading, local_folder
from cd4lm.model.configuration import DiffusionConfig, LLaDAFields
from cd4lm.model.decoder import Dream, ILLaDA
from cd4lm.model.dream_configuration import DreamFields
from cd4lm.model.illada_configuration import ILLaDAFields
from cd4lm.model.llada import DiffusionLM, LLaDA, Output, RMSNorm

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


@dataclass
class LLaDAOutput(Output, ModelOutput):
    """Output as transformers and the hooks of FSDP2 and ZeRO-3 know it."""


class SavedConfig(PretrainedConfig):
    """What config.json holds; attention over blocks only where it is not bidirectional."""

    def __init__(self, **fields):
        others = self.fill(**fields)
        ids = {name: value for name, value in vars(self).items() if name in TOKEN_IDS}
        super().__init__(tie_word_embeddings=self.tie_word_embeddings, **ids, **others)

    def to_dict(self) -> dict:
        """The fields of config.json; a bidirectional checkpoint has those of the released format and no other."""
        fields = super().to_dict()
        if self.attention == "bidirectional":
            for name in ("attention", "block_length", "block_grid"):
                fields.pop(name, None)
        return fields

    def to_json_string(self, use_diff: bool = True) -> str:
        """The config file's text; the dtype is also written under the name that transformers before 4.56 reads."""
        fields = json.loads(super().to_json_string(use_diff))
        if "dtype" in fields:
            fields["torch_dtype"] = fields["dtype"]
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"


class LLaDAConfig(LLaDAFields, SavedConfig):
    """Configuration of a LLaDA model; arguments and defaults are those of LLaDAFields.fill."""

    def __init__(self, **fields):
        SavedConfig.__init__(self, **fields)

    # The names that transformers asks for.
    hidden_size = property(lambda self: self.d_model)
    num_hidden_layers = property(lambda self: self.n_layers)
    num_attention_heads = property(lambda self: self.n_heads)


class DreamConfig(DreamFields, SavedConfig):
    """Configuration of a Dream model; arguments and defaults are those of DreamFields."""

    def __init__(self, **fields):
        SavedConfig.__init__(self, **fields)


class ILLaDAConfig(ILLaDAFields, SavedConfig):
    """Configuration of an iLLaDA model; arguments and defaults are those of ILLaDAFields."""

    def __init__(self, **fields):
        SavedConfig.__init__(self, **fields)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As transformers', with the token ids that the tokenizer files beside config.json give."""
        named = {"name_or_path": pretrained_model_name_or_path}  # as AutoConfig hands it on
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs | named)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """A configuration from fields; where they are a file's (name_or_path), read as strictly as load_config does."""
        if "name_or_path" not in kwargs:
            return super().from_dict(config_dict, **kwargs)
        hub = {"revision": config_dict.get("_commit_hash")}
        config_dict = cls.complete(config_dict, local_folder(kwargs["name_or_path"], weights=False, hub=hub))
        cls.check_layout(config_dict)
        made = super().from_dict(config_dict, **kwargs)  # with return_unused_kwargs a pair
        (made[0] if isinstance(made, tuple) else made).check_tokens(config_dict)
        return made


class PretrainedLM(PreTrainedModel):
    """The part of transformers' models that is the same for every backbone."""

    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: SavedConfig):
        super().__init__(config)
        self.build(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load a checkpoint in the released layout, strictly: a missing, unexpected or misshapen weight is an error.

        Takes transformers' arguments (dtype, device_map, ...). Raises CheckpointError with one line of what is wrong.
        """
        check_folder(pretrained_model_name_or_path)
        if cls.copies:
            hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            check_copies(local_folder(pretrained_model_name_or_path, weights=True, hub=hub), cls.copies)
        kwargs["ignore_mismatched_sizes"] = True  # reported below, all in one way
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        check_loading(pretrained_model_name_or_path, report)
        return (model, report) if output_loading_info else model


class LLaDAModelLM(LLaDA, PretrainedLM):
    """LLaDA, under the name that its config.json gives."""

    config_class = LLaDAConfig
    _no_split_modules = ["LLaDABlock"]
    output = LLaDAOutput

    def __init__(self, config: LLaDAConfig):
        PretrainedLM.__init__(self, config)


class DreamModel(Dream, PretrainedLM):
    """Dream, under the name that its config.json gives."""

    config_class = DreamConfig
    _no_split_modules = ["DecoderBlock"]
    output = LLaDAOutput

    def __init__(self, config: DreamConfig):
        PretrainedLM.__init__(self, config)


class ILLaDAForCausalLM(ILLaDA, PretrainedLM):
    """iLLaDA, under the name that its config.json gives."""

    config_class = ILLaDAConfig
    _no_split_modules = ["DecoderBlock"]
    _tied_weights_keys = ILLaDA.copies
    _keys_to_ignore_on_save = list(ILLaDA.copies)
    output = LLaDAOutput

    def __init__(self, config: ILLaDAConfig):
        PretrainedLM.__init__(self, config)


MODELS = {model.config_class.model_type: model for model in (LLaDAModelLM, DreamModel, ILLaDAForCausalLM)}
for model in MODELS.values():
    AutoConfig.register(model.config_class.model_type, model.config_class)
    AutoModel.register(model.config_class, model)
    AutoModelForCausalLM.register(model.config_class, model)


def saved_config(config: DiffusionConfig) -> SavedConfig:
    """A configuration as transformers saves it, with every field that its config.json held."""
    if isinstance(config, SavedConfig):
        return config
    return MODELS[config.model_type].config_class.from_dict(config.as_fields())


def model_of(config: DiffusionConfig) -> DiffusionLM:
    """A model of this configuration with fresh weights."""
    return MODELS[config.model_type](saved_config(config))
