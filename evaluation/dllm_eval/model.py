"""The lm-eval model `LLaDA`: text through the decode loop, log-likelihoods by the Monte Carlo estimate."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from accelerate import PartialState
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from cd4lm.config import require
from cd4lm.data.examples import end_ids
from cd4lm.decoding import Decoder, DecodingOptions, FixedSteps, generate
from cd4lm.io import fingerprint
from cd4lm.model.loading import load_for_inference
from evaluation.dllm_eval.answers import Answer, AnswerLog, Cost, Key, Response
from evaluation.dllm_eval.likelihood import disjoint_windows, estimates, greedy
from evaluation.dllm_eval.options import task_options
from evaluation.dllm_eval.scoring import Progress

Ids = tuple[list[int], list[int]]  # context and continuation
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Request:
    """An lm-eval request, its key in the answer log, and a hash of its prompt and generation arguments."""

    key: Key
    hash: str
    instance: Instance

    @property
    def row_id(self) -> int:
        """What sampling draws from: the document and the repeat, whatever else is in the batch."""
        _, doc_id, index, repeat = self.key
        return (doc_id << 32) + (index << 16) + repeat


def join_processes() -> PartialState:
    """This process's place among those that accelerate or torchrun started; each has its own GPU."""
    # Processes finish their shares at different times, and the first to wait must not give up on the last.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=24))


@register_model("LLaDA")
class LLaDA(TemplateLM):
    """A masked diffusion model under lm-eval.

    pretrained, dtype, mc_samples: see ModelOptions. batch_size: rows decoded together; it changes no answer.
    log: finished answers of earlier runs, and where new ones go. progress: told of every answer.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        dtype: str = "auto",
        mc_samples: int = 128,
        seed: int = 42,
        log: AnswerLog | None = None,
        progress: Progress | None = None,
    ):
        super().__init__()
        self.state = join_processes()
        self._rank, self._world_size = self.state.process_index, self.state.num_processes
        self._device = self.state.device
        self.model, self.tokenizer = load_for_inference(pretrained, dtype=DTYPES[dtype])
        self.stored, self.eos_ids = DecodingOptions.stored(pretrained), end_ids(self.tokenizer)
        self.batch_size, self.mc_samples, self.seed = int(batch_size), mc_samples, seed
        self.log, self.progress = log, progress
        self.done: dict[Key, Answer] = {}

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        if add_special_tokens is None:  # a chat template has written them out already
            begin = self.tokenizer.bos_token
            add_special_tokens = begin is None or not string.startswith(begin)
        return self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"]

    def answered(
        self, instances: Sequence[Instance], answer: Callable[[list[Request]], Iterator[tuple[Request, Answer]]]
    ) -> list[Answer]:
        """The answers in the order of the instances; `answer` is asked for those that no earlier run has given.

        lm-eval passes a request that is to be repeated several times over, and pads the processes' shares with copies.
        """
        seen: Counter = Counter()
        requests = []
        for instance in instances:
            place = (instance.task_name, instance.doc_id, instance.idx)
            key = (*place, seen[place] % instance.repeats)
            seen[place] += 1
            requests.append(Request(key, fingerprint(instance.args), instance))
        each = {request.key: request for request in requests}
        if self.progress is not None:
            self.progress.start(len(each))
        for request in each.values():
            stored = self.log.get(request.key, request.hash) if self.log is not None else None
            if stored is not None:
                self.count(request, stored)
        for request, found in answer([request for key, request in each.items() if key not in self.done]):
            if self.log is not None:
                self.log.put(request.key, request.hash, found)  # on disk first, then counted
            self.count(request, found)
        if self.progress is not None:
            self.progress.stop()
        return [self.done[request.key] for request in requests]

    def count(self, request: Request, answer: Answer) -> None:
        self.done[request.key] = answer
        if self.progress is not None:
            self.progress.add(request.instance, answer)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Response]:
        return self.answered(requests, self.responses)

    def responses(self, requests: list[Request]) -> Iterator[tuple[Request, Response]]:
        """Decode requests; those of a task share a decoder and a batch. Raises ValueError for a prompt that is too long."""
        groups = defaultdict(list)
        for request in requests:
            context, arguments = request.instance.args
            options, until = task_options(arguments, self.seed)
            decoder = options.decoder(self.model.config, self.eos_ids, self.stored)
            prompt = self.tok_encode(context)
            self.check_length(request, len(prompt), decoder)
            groups[request.key[0], decoder, until].append((request, torch.tensor(prompt)))
        for (_, decoder, until), group in groups.items():
            yield from self.decoded(group, decoder, until)

    def check_length(self, request: Request, prompt_length: int, decoder: Decoder) -> None:
        task, doc_id, *_ = request.key
        length, room = decoder.config.gen_length, self.model.config.max_sequence_length
        require(
            prompt_length + length <= room,
            f"{task} document {doc_id}: {prompt_length} prompt tokens and gen_length={length} exceed the model's {room}: "
            "use a smaller gen_length or fewer shots",
        )

    def decoded(
        self, group: list[tuple[Request, torch.Tensor]], decoder: Decoder, until: tuple[str, ...]
    ) -> Iterator[tuple[Request, Response]]:
        """Responses as they finish. Shorter prompts go first: a batch is as wide as its longest prompt."""
        group = sorted(group, key=lambda pair: len(pair[1]))
        requests, prompts = [request for request, _ in group], [prompt for _, prompt in group]
        loop = {"model": self.model, "tokenizer": self.tokenizer, "batch_size": self.batch_size}
        if self.device.type == "cuda":  # the first forwards load and choose kernels
            once = replace(decoder, policy=FixedSteps(steps=decoder.config.blocks))
            for _ in generate(prompts=prompts[: self.batch_size], decoder=once, **loop):
                pass
        place = {"session": 1 if self.log is None else self.log.session, "rank": self.rank}
        row_ids = [request.row_id for request in requests]
        for g in generate(prompts=prompts, decoder=decoder, row_ids=row_ids, **loop):
            text = self.tokenizer.decode(g.tokens, skip_special_tokens=True)
            text = text[: min((text.find(end) for end in until if end in text), default=len(text))]
            cost = Cost(g.nfe, len(g.tokens), g.seconds, g.truncated, g.clock, **place)
            yield requests[g.index], Response(text, cost)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self.answered(requests, lambda waiting: self.scored(waiting, self.pair))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return [value for value, _ in self.answered(requests, lambda waiting: self.scored(waiting, self.windows))]

    def _loglikelihood_tokens(self, requests, **_):
        raise NotImplementedError("loglikelihood does its own scoring, request by request")

    def pair(self, instance: Instance) -> list[Ids]:
        """Context and continuation as ids, cut as lm-eval cuts them; an empty context becomes the first token."""
        context, continuation = instance.args
        if context == "":
            return [([self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False))]
        return [self._encode_pair(context, continuation)]

    def windows(self, instance: Instance) -> list[Ids]:
        """A whole text as disjoint windows that the model can take."""
        tokens = self.tok_encode(instance.args[0], add_special_tokens=False)
        return disjoint_windows(tokens, self.prefix_token_id, self.model.config.max_sequence_length)

    def scored(
        self, requests: list[Request], pairs_of: Callable[[Instance], list[Ids]]
    ) -> Iterator[tuple[Request, tuple[float, bool]]]:
        """Log-likelihood of every request, and whether one token per step, greedily, would have written it."""
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            parts = [(i, pair) for i, request in enumerate(batch) for pair in pairs_of(request.instance)]
            pairs = [(torch.tensor(a), torch.tensor(b)) for _, (a, b) in parts]
            values = estimates(self.model, pairs, self.mc_samples, self.batch_size, self.seed)
            written = greedy(self.model, pairs, self.batch_size)
            for i, request in enumerate(batch):
                own = [j for j, (owner, _) in enumerate(parts) if owner == i]
                yield request, (sum(values[j] for j in own), all(written[j] for j in own))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.stack(parts) if tensor.ndim == 0 else torch.cat(parts)

    def gather_object(self, obj, dst: int = 0) -> list | None:
        if self.world_size == 1:
            return [obj]
        parts = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, parts, dst=dst)
        return parts

    def barrier(self) -> None:
        self.state.wait_for_everyone()
