"""The lm-eval model `LLaDA`: text through the decode loop, log-likelihoods by the Monte Carlo estimate."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model

from cd4lm.data.examples import end_ids
from cd4lm.decoding.generation_settings import GenerationSettings
from cd4lm.model.loading import load_for_inference
from evaluation.dllm_eval.answers import Answer, AnswerLog, Key, fingerprint
from evaluation.dllm_eval.generation import Job, check_length, finished, group_by
from evaluation.dllm_eval.likelihood import disjoint_windows, estimates, greedy
from evaluation.dllm_eval.options import make_decoder, task_options
from evaluation.dllm_eval.processes import ProcessesLM
from evaluation.dllm_eval.recorder import Recorder

Ids = tuple[list[int], list[int]]  # context and continuation
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


@register_model("LLaDA")
class LLaDA(ProcessesLM):
    """A masked diffusion model under lm-eval.

    pretrained, dtype, mc_samples: see ModelOptions. batch_size: rows decoded together; it changes no answer.
    log: finished answers of earlier runs, and where new ones go. recorder: told of every answer, for scores and progress.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        dtype: str = "auto",
        mc_samples: int = 128,
        seed: int = 42,
        log: AnswerLog | None = None,
        recorder: Recorder | None = None,
    ):
        super().__init__()
        self.model, self.tokenizer = load_for_inference(pretrained, dtype=DTYPES[dtype])
        self.settings = GenerationSettings.load(pretrained)
        self.eos_ids = end_ids(self.tokenizer)
        self.batch_size, self.mc_samples, self.seed = int(batch_size), mc_samples, seed
        self.log, self.recorder = log, recorder or Recorder()
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

    def keep(self, key: Key, request: str, instance: Instance, answer: Answer) -> None:
        """A new answer: on disk first, then counted."""
        if self.log is not None:
            self.log.put(key, request, answer)
        self.done[key] = answer
        self.recorder.add(key, instance, answer)

    def keyed(self, requests: Sequence[Instance]) -> list[tuple[Key, str, Instance]]:
        """Each request with its key and hash; what earlier runs answered is taken over.

        lm-eval passes a request that is to be repeated several times over, and pads the processes' shares with copies.
        """
        seen: Counter = Counter()
        entries = []
        for instance in requests:
            place = (instance.task_name, instance.doc_id, instance.idx)
            key = (*place, seen[place] % instance.repeats)
            seen[place] += 1
            request = fingerprint(instance.args, instance.doc)
            entries.append((key, request, instance))
            stored = self.log.get(key, request) if self.log is not None and key not in self.done else None
            if stored is not None:
                self.done[key] = stored
                self.recorder.add(key, instance, stored)
        return entries

    def waiting(self, requests: Sequence[Instance]) -> list[tuple[Key, str, Instance]]:
        """Requests without an answer, each once; opens the progress bar."""
        self.recorder.start(len({(r.task_name, r.doc_id, r.idx, n) for r in requests for n in range(r.repeats)}))
        entries = {key: (key, request, instance) for key, request, instance in self.keyed(requests)}
        return [entry for key, entry in entries.items() if key not in self.done]

    def answers(self, requests: Sequence[Instance]) -> list[Answer]:
        """The answers in the order of the requests."""
        self.recorder.stop()
        return [self.done[key] for key, _, _ in self.keyed(requests)]

    def job(self, key: Key, request: str, instance: Instance) -> Job:
        context, arguments = instance.args
        options, until = task_options(arguments)
        decoder = make_decoder(options, self.settings, self.model.config, self.eos_ids, self.seed)
        return Job(key, request, instance, self.tok_encode(context), decoder, until)

    def text(self, tokens: torch.Tensor, until: tuple[str, ...]) -> str:
        """The answer up to the first string that ends it."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text[: min((text.find(end) for end in until if end in text), default=len(text))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        jobs = [self.job(*entry) for entry in self.waiting(requests)]
        check_length(jobs, self.model.config.max_sequence_length)
        for (_, decoder), group in group_by(jobs, lambda job: (job.key[0], job.decoder)):
            for job, part, row, seconds, clock in finished(self.model, group, decoder, self.batch_size):
                length = part.lengths[row].item()
                answer = Answer(
                    text=self.text(part.tokens[row, :length], job.until),
                    nfe=part.nfe[row].item(),
                    tokens=length,
                    seconds=seconds,
                    clock=clock,
                    session=1 if self.log is None else self.log.session,
                    rank=self.rank,
                    truncated=length == decoder.config.gen_length,
                )
                self.keep(job.key, job.request, job.instance, answer)
        return [answer.text for answer in self.answers(requests)]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.score(requests, self.pair)
        return [(answer.log_likelihood, answer.greedy) for answer in self.answers(requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        self.score(requests, self.windows)
        return [answer.log_likelihood for answer in self.answers(requests)]

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

    def score(self, requests: Sequence[Instance], pairs_of: Callable[[Instance], list[Ids]]) -> None:
        """Log-likelihood of every request, and whether one token per step, greedily, would have written it."""
        waiting = self.waiting(requests)
        for start in range(0, len(waiting), self.batch_size):
            entries = waiting[start : start + self.batch_size]
            pairs = [(torch.tensor(a), torch.tensor(b)) for _, _, r in entries for a, b in pairs_of(r)]
            owner = [i for i, (_, _, r) in enumerate(entries) for _ in pairs_of(r)]
            values = estimates(self.model, pairs, self.mc_samples, self.batch_size, self.seed)
            written = greedy(self.model, pairs, self.batch_size)
            for i, entry in enumerate(entries):
                own = [j for j, o in enumerate(owner) if o == i]
                answer = Answer(log_likelihood=sum(values[j] for j in own), greedy=all(written[j] for j in own))
                self.keep(*entry, answer)
