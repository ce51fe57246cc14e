"""One step of every canvas on vLLM: what the engine's policy commits, and what of it is sent.

A block that is full is computed once more as it stands, so that the cache holds its final keys and values, and is then
sent. The last block of an answer has no reader and is sent at once, unless it completes a page that the prefix cache
would keep. Letters: R request slots, n requests of a step, m of them with a canvas, b block length, V vocabulary.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from vllm.v1.worker.gpu.buffer_utils import UvaBackedTensor
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from cd4lm.decoding.canvas import first_true, is_eos
from cd4lm.decoding.policies import BlockView, ConfidenceAdaptive
from cd4lm.decoding.step import choose
from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.sampling import CHUNK, propose

WORKING_SET = 1 << 25  # most logits that are float32 at a time


@dataclass(frozen=True)
class PerRequest(ConfidenceAdaptive):
    """CAD with a threshold for each row, (m, 1)."""

    thresholds: torch.Tensor = field(kw_only=True)

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return ((score >= self.thresholds) & candidates).sum(dim=1)


class BlockSampler:
    """The canvases, one for each request slot, in buffers that stay where they are."""

    penalties_state = SimpleNamespace(output_bin_counts=None)  # the runner asks for it; there are none

    def __init__(self, sampler, state):
        self.state, self.b, self.device = state, state.b, state.device
        self.req_states, self.sampling_states = sampler.req_states, sampler.sampling_states
        config, self.decoder = state.model_config.hf_config, state.decoder
        self.shift, self.mask_id = config.output_shift, config.mask_token_id
        self.eos_ids = torch.tensor(self.decoder.config.eos_ids, dtype=torch.long, device=self.device)
        self.places = torch.arange(self.b, device=self.device)  # (b,)

        def buffer(*shape: int, dtype=torch.int64) -> torch.Tensor:
            return torch.zeros(state.max_num_reqs, *shape, dtype=dtype, device=self.device)

        self.canvas = buffer(self.b)  # (R, b)
        self.masked = buffer(self.b, dtype=torch.bool)  # (R, b) still to be committed
        self.start = buffer()  # (R,) position of the block's first token
        self.given = buffer()  # (R,) tokens of the prompt at the front of the block
        self.step = buffer()  # (R,) steps of this block, and of the answer
        self.nfe = buffer()
        self.full = buffer(dtype=torch.bool)  # (R,) computed as it stands in the coming forward
        self.done = buffer(dtype=torch.bool)  # (R,) sent to its end; a step of it may still be under way
        self.before = buffer(config.hidden_size, dtype=state.dtype) if self.shift else None  # (R, d) output before it
        self.keys = UvaBackedTensor(state.max_num_reqs, dtype=torch.int64)
        self.temperatures = np.zeros(state.max_num_reqs)  # the host's alone, which groups rows by it

    def add_request(self, slot: int, params) -> None:
        self.sampling_states.add_request(slot, params)  # draws a seed where none is given, the same on every rank
        self.temperatures[slot] = params.temperature
        seed = int(self.sampling_states.seeds.np[slot])
        self.keys.np[slot] = row_keys(torch.zeros(1, dtype=torch.long), seed).item()

    def apply_staged_writes(self) -> None:
        self.sampling_states.apply_staged_writes()
        self.keys.copy_to_uva()

    def __call__(self, logits: torch.Tensor, input_batch, draft_logits=None) -> SamplerOutput:
        n = input_batch.num_reqs
        sampled = torch.zeros(n, self.b, dtype=torch.int32, device=self.device)
        num_sampled = torch.zeros(n, dtype=torch.int32, device=self.device)
        num_rejected = torch.zeros_like(num_sampled)
        widths = np.diff(input_batch.cu_num_logits_np[: n + 1])
        if input_batch.num_draft_tokens == 0 and widths.any():
            self.rehearse(logits, n)
            return SamplerOutput(sampled, None, None, num_sampled, num_rejected)
        ends = input_batch.num_computed_prefill_tokens_np[:n] + input_batch.num_scheduled_tokens[:n]
        prompts = np.flatnonzero((widths == 0) & (ends >= input_batch.prefill_len_np[:n]))
        if len(prompts):
            rows = self.to_device(prompts)
            num_rejected[rows] = self.begin(input_batch, prompts, rows).int()
        at = np.flatnonzero(widths)
        if len(at):
            rows = self.to_device(at)
            last = input_batch.query_start_loc[rows + 1].long() - 1  # (m,) rows of the blocks' last outputs
            tokens, count, moved = self.advance(logits.view(len(at), self.b, -1), input_batch.idx_mapping_np[at], last)
            sampled[rows], num_sampled[rows] = tokens.int(), count.int()
            num_rejected[rows] = torch.where(moved, 0, self.b).int()
        return SamplerOutput(sampled, None, None, num_sampled, num_rejected)

    def rehearse(self, logits: torch.Tensor, n: int) -> None:
        """Use the memory of a step of n canvases; vLLM asks for it with one row each when it measures what is left."""
        slots = np.arange(n)
        canvases = logits.new_zeros(n, self.b, logits.shape[-1])
        self.sample(canvases, slots, self.keys.gpu[:n], self.places.expand(n, self.b))

    def to_device(self, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(indices.astype(np.int64)).to(self.device, non_blocking=True)

    def begin(self, input_batch, prompts: np.ndarray, rows: torch.Tensor) -> torch.Tensor:
        """Start the first block of requests whose prompt is computed; returns the tokens of each that share it, (n,).

        These were computed without their block's masks, and will be again.
        """
        slots = self.to_device(input_batch.idx_mapping_np[prompts])
        length = self.to_device(input_batch.prefill_len_np[prompts])
        tail = length % self.b
        if self.shift:
            self.before[slots] = self.state.model.outputs[input_batch.query_start_loc[rows + 1].long() - 1]
        masked, canvas = self.empty(slots, length - tail)
        at = (length - tail)[:, None] + self.places.minimum((tail - 1).clamp(min=0)[:, None])  # (n, b)
        at = at.clamp(max=self.req_states.all_token_ids.gpu.shape[1] - 1)
        known = self.places < tail[:, None]
        prompt = self.req_states.all_token_ids.gpu[slots[:, None], at].long()
        self.canvas[slots], self.masked[slots] = torch.where(known, prompt, canvas), masked & ~known
        self.start[slots], self.given[slots] = length - tail, tail
        self.step[slots], self.nfe[slots], self.full[slots], self.done[slots] = 0, 0, False, False
        self.show(slots)
        return tail

    def advance(self, logits: torch.Tensor, slots_np: np.ndarray, last: torch.Tensor):
        """Commit what passes in each canvas, and open a block after each that has been sent.

        logits: (m, b, V); last: (m,) rows of the blocks' last outputs. Returns tokens (m, b) and how many of them are
        sent (m,), and whether a canvas goes on with its next block (m,).
        """
        slots = self.to_device(slots_np)
        tokens, certainty, keys = self.propose(logits, slots_np, slots)
        start, given, full, done = self.start[slots], self.given[slots], self.full[slots], self.done[slots]
        active = ~full & ~done
        masked = self.masked[slots] & active[:, None]
        policy = PerRequest(**vars(self.decoder.policy), thresholds=self.state.thresholds.gpu[slots][:, None])
        view = BlockView(logits, certainty, masked, masked, self.step[slots], keys)
        commit = choose(view, policy, self.decoder.config)
        canvas, masked = torch.where(commit, tokens, self.canvas[slots]), masked & ~commit
        # What is sent: up to the first EOS, once everything before it is committed, or to the answer's end.
        room = (self.state.ends.gpu[slots] - start).clamp(max=self.b)  # (m,) tokens of the block that are the answer's
        answer = (self.places >= given[:, None]) & ~masked
        eos = first_true(is_eos(canvas, self.eos_ids) & answer)
        stopped = self.state.stops.gpu[slots] & (eos < torch.minimum(first_true(masked), room))
        length = torch.where(stopped, eos + 1, room)
        ready = stopped | ~masked.any(dim=1)
        final = ready & (stopped | (start + self.b >= self.state.ends.gpu[slots]))
        keeps = (start + length) % self.state.page == 0  # its page is complete, and may be read by other requests
        send = (full & ~done) | (active & final & ~keeps)
        moved = send & ~final
        sent = canvas.gather(1, (self.places + given[:, None]).clamp(max=self.b - 1))
        count = torch.where(send, length - given, 0)

        self.canvas[slots], self.masked[slots] = canvas, masked
        self.step[slots] += active.long()
        self.nfe[slots] += active.long()
        self.full[slots] = ready & ~send
        self.done[slots] = done | (send & final)
        if self.shift:
            self.before[slots] = torch.where(moved[:, None], self.state.model.outputs[last], self.before[slots])
        self.open_next(slots, moved)
        self.show(slots)
        return sent, count, moved

    def open_next(self, slots: torch.Tensor, moved: torch.Tensor) -> None:
        """An empty block after the present one, where moved (m,)."""
        start = self.start[slots] + torch.where(moved, self.b, 0)
        masked, canvas = self.empty(slots, start)
        self.start[slots] = start
        self.given[slots] = torch.where(moved, 0, self.given[slots])
        self.step[slots] = torch.where(moved, 0, self.step[slots])
        self.canvas[slots] = torch.where(moved[:, None], canvas, self.canvas[slots])
        self.masked[slots] = torch.where(moved[:, None], masked, self.masked[slots])

    def empty(self, slots: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks and tokens (m, b) of a block at position start (m,) of which nothing is known.

        What lies behind the answer's end is neither decoded nor seen.
        """
        masked = start[:, None] + self.places < self.state.ends.gpu[slots][:, None]
        return masked, torch.full_like(self.places, self.mask_id).expand_as(masked)

    def show(self, slots: torch.Tensor) -> None:
        """Make the canvases the input of the next step."""
        self.req_states.draft_tokens[slots] = self.canvas[slots].to(self.req_states.draft_tokens.dtype)

    def propose(self, logits: torch.Tensor, slots_np: np.ndarray, slots: torch.Tensor):
        """Tokens (m, b), their probabilities (m, b) and the step's keys (m,), from logits (m, b, V) as they came."""
        keys = self.keys.gpu[slots] + self.nfe[slots]
        # Random numbers are told apart as in the engine, whose last block is as wide as the others and may start early.
        early = (self.start[slots] + self.b - self.state.ends.gpu[slots]).clamp(min=0)
        places = self.places + early[:, None]  # (m, b)
        if not self.shift:
            return *self.sample(logits, slots_np, keys, places), keys
        first = self.state.model.compute_logits(self.before[slots])[:, None]  # (m, 1, V)
        tokens, certainty = self.sample(first, slots_np, keys, places[:, :1])
        more, certainties = self.sample(logits, slots_np, keys, places + 1)
        return torch.cat((tokens, more[:, :-1]), dim=1), torch.cat((certainty, certainties[:, :-1]), dim=1), keys

    def sample(self, logits, slots_np: np.ndarray, keys, places) -> tuple[torch.Tensor, torch.Tensor]:
        """The engine's proposals, greedy for requests of temperature 0."""
        chunk = min(CHUNK, max(1024, WORKING_SET // places.numel()))
        tokens, certainty = torch.empty_like(places), torch.empty_like(places, dtype=torch.float32)
        degrees = self.temperatures[slots_np]
        for some in (degrees == 0, degrees > 0):
            if some.all():  # no copy of the logits
                return propose(logits, self.mask_id, self.degree(degrees), keys, places, chunk)
            if some.any():
                i = self.to_device(np.flatnonzero(some))
                tokens[i], certainty[i] = propose(
                    logits[i], self.mask_id, self.degree(degrees[some]), keys[i], places[i], chunk
                )
        return tokens, certainty

    def degree(self, degrees: np.ndarray) -> float | torch.Tensor:
        """Temperatures (m,), all 0 or none, as `propose` takes them."""
        return torch.from_numpy(degrees).to(self.device)[:, None, None] if degrees[0] else 0.0
