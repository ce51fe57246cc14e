"""What vLLM's model runner keeps and prepares for our models: per-request settings, and attention in blocks.

Letters: R request slots, n requests of a step, b block length, N blocks in the step's queries.
"""

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.attn_utils import build_attn_metadata
from vllm.v1.worker.gpu.buffer_utils import UvaBackedTensor
from vllm.v1.worker.gpu.model_states.interface import ModelState

from cd4lm_vllm.requests import THRESHOLD
from cd4lm_vllm.sampler import BlockSampler
from cd4lm_vllm.settings import decoder_of


class BlockState(ModelState):
    """Block-causal attention and the answers' ends; the tensors that a forward reads stay where they are."""

    num_new_sampled_tokens_per_step = 0

    def __init__(self, vllm_config: VllmConfig, model, encoder_cache, device: torch.device):
        super().__init__(vllm_config, model, encoder_cache, device)
        self.b, R = vllm_config.diffusion_config.canvas_length, self.max_num_reqs
        cache = vllm_config.cache_config
        self.page = cache.hash_block_size or cache.block_size  # what the prefix cache keeps or finds at once
        self.decoder = decoder_of(self.model_config)
        self.ends = UvaBackedTensor(R, dtype=torch.int64)  # position after each answer's last
        self.ends.np.fill(self.max_model_len)
        self.ends.copy_to_uva()
        self.thresholds = UvaBackedTensor(R, dtype=torch.float32)
        self.stops = UvaBackedTensor(R, dtype=torch.bool)  # whether EOS ends the answer
        most = self.max_num_tokens // self.b + R
        self.query_starts = torch.zeros(most + 1, dtype=torch.int32, device=device)
        self.seq_lens = torch.zeros(most, dtype=torch.int32, device=device)
        self.tables: list[torch.Tensor] = []  # one of (most, pages) for each group of layers

    def get_supported_generation_tasks(self):
        return ("generate",)

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        params = new_req_data.sampling_params
        said = (params.extra_args or {}).get(THRESHOLD)
        self.ends.np[req_index] = min(new_req_data.prompt_len + (params.max_tokens or 1), self.max_model_len)
        self.thresholds.np[req_index] = self.decoder.policy.threshold if said is None else said
        self.stops.np[req_index] = not params.ignore_eos

    def apply_staged_writes(self) -> None:
        for tensor in (self.ends, self.thresholds, self.stops):
            tensor.copy_to_uva()

    def custom_sampler(self, sampler):
        return BlockSampler(sampler, self), None

    def prepare_inputs_embeds(self, scheduled_encoder_inputs, input_batch, req_states):
        return None

    def prepare_inputs(self, input_batch, req_states) -> dict:
        return {}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict:
        return {}

    def prepare_attn(
        self,
        input_batch,
        cudagraph_mode,
        block_tables,
        slot_mappings,
        attn_groups,
        kv_cache_config,
        for_capture=False,
        ubatch_idx=0,
    ) -> dict:
        """Attention metadata in which every block of a request's query is a sequence of its own, without a causal mask.

        It ends where the block ends, or the answer, and has the request's pages; keys are written before they are read.
        So any kernel that takes bidirectional sequences computes block-causal attention.
        """
        n, b = input_batch.num_reqs, self.b
        lengths = input_batch.num_scheduled_tokens[:n].astype(np.int64)
        blocks = -(-lengths // b)  # (n,)
        owner = np.repeat(np.arange(n), blocks)  # (N,) the request that a block belongs to
        place = np.arange(len(owner)) - np.repeat(np.cumsum(blocks) - blocks, blocks)  # (N,) which of its blocks
        after = lengths[owner] - np.minimum((place + 1) * b, lengths[owner])  # (N,) tokens of the query after the block
        sizes = np.minimum(b, lengths[owner] - place * b)  # (N,)
        starts = torch.from_numpy(np.concatenate(([0], np.cumsum(sizes))).astype(np.int32))  # (N + 1,)
        N = len(owner)
        owner_there, after_there = torch.from_numpy(np.stack((owner, after))).to(self.device, non_blocking=True)
        seen = input_batch.seq_lens[:n][owner_there] - after_there
        ends = self.ends.gpu[input_batch.idx_mapping[:n]][owner_there]
        self.seq_lens[:N].copy_(torch.minimum(seen, ends))
        self.query_starts[: N + 1].copy_(starts, non_blocking=True)
        return build_attn_metadata(
            attn_groups=attn_groups,
            num_reqs=N,
            num_tokens=input_batch.num_tokens,
            query_start_loc_gpu=self.query_starts[: N + 1],
            query_start_loc_cpu=starts,
            max_query_len=int(sizes.max()),
            seq_lens=self.seq_lens[:N],
            max_seq_len=self.max_model_len,
            block_tables=self.tables_of(block_tables, owner_there),
            slot_mappings=slot_mappings,
            kv_cache_config=kv_cache_config,
            causal=False,
        )

    def tables_of(self, block_tables, owner: torch.Tensor) -> list[torch.Tensor]:
        """The pages of the request that each block belongs to, (N, pages) for each group of layers."""
        if not self.tables:
            self.tables = [table.new_zeros(len(self.seq_lens), table.shape[1]) for table in block_tables]
        for own, table in zip(self.tables, block_tables, strict=True):
            torch.index_select(table, 0, owner, out=own[: len(owner)])
        return [own[: len(owner)] for own in self.tables]
