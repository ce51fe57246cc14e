"""What a DSCD run needs on each GPU, computed part by part. Nothing here is measured.

    python scripts/training_memory.py --shape 8b --batch 4 --length 512

Full training in bf16 keeps float32 masters and AdamW's two moments; the teacher is a second model. With adapters there
is one model. Activations are recomputed block by block. GB are 10^9 bytes.
"""

import argparse
from dataclasses import dataclass

from benchmarking.training_shapes import Shape, add_shape_options, shape_of

from cd4lm.config import exit_with_message, require

LOSS_ARRAYS = 9  # float32 arrays of chunk x vocabulary at the peak of the loss: 9.2 measured, docs/benchmarks.md
BUCKETS = 2e9  # DeepSpeed's default buckets: 5e8 elements in bf16, twice while communication overlaps
CONTEXT = 1.5e9  # allowance for the CUDA context, libraries and fragmentation


@dataclass(frozen=True)
class Plan:
    """How a run is spread: gpus that shard optimiser and gradients, and whether weights are sharded too."""

    name: str
    gpus: int
    student_sharded: bool = False
    teacher_sharded: bool = False
    rank: int | None = None  # of adapters


PLANS = (
    Plan("full, 8 GPUs, ZeRO-2", 8),
    Plan("full, 8 GPUs, ZeRO-3, teacher whole", 8, student_sharded=True),
    Plan("full, 8 GPUs, ZeRO-3, teacher sharded", 8, student_sharded=True, teacher_sharded=True),
    Plan("full, 64 GPUs, ZeRO-3, teacher sharded", 64, student_sharded=True, teacher_sharded=True),
    Plan("LoRA rank 16, 1 GPU", 1, rank=16),
)


def adapter_weights(shape: Shape, rank: int) -> int:
    """Weights of adapters on the seven matrices of every block: rank x (inputs + outputs)."""
    return shape.n_layers * rank * (4 * 2 * shape.d_model + 3 * (shape.d_model + shape.mlp_hidden_size))


def parts(plan: Plan, shape: Shape, batch: int, length: int, chunk: int) -> dict[str, float]:
    """Bytes on each GPU by purpose."""
    P, d, tokens, head = shape.weights, shape.d_model, batch * length, shape.head_weights
    trained = P if plan.rank is None else adapter_weights(shape, plan.rank)
    block = shape.block_weights / shape.n_layers
    found = {"student": 2 * P / (plan.gpus if plan.student_sharded else 1)}
    if plan.rank is None:
        found["teacher"] = 2 * P / (plan.gpus if plan.teacher_sharded else 1)
        found["gradients"] = 2 * P / plan.gpus
        found["optimiser"] = 12 * P / plan.gpus  # float32 masters and two moments
    else:
        found["teacher"] = 0.0
        found["gradients"] = 4.0 * trained
        found["optimiser"] = 12.0 * trained
    whole_heads = plan.student_sharded + plan.teacher_sharded
    found["gathered"] = 2 * whole_heads * (head + 2 * block)  # both heads at the loss, and the next block in advance
    kept = 2 * shape.n_layers * tokens * d  # the input of every block
    # Of the block being recomputed: norms in float32, projections, attention, the MLP's four arrays, and gradients.
    found["activations"] = kept + tokens * (36 * d + 8 * shape.mlp_hidden_size) * 1.5
    found["loss"] = 4 * LOSS_ARRAYS * chunk * shape.vocab_size + (
        0 if plan.rank else 6 * head
    )  # and the head's gradient
    found["buckets"] = BUCKETS if plan.gpus > 1 else 0.0
    found["context"] = CONTEXT
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_options(parser, "8b")
    parser.add_argument("--batch", type=int, default=4, help="rows per GPU")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=128, help="dscd.loss_chunk")
    arguments = parser.parse_args()
    require(min(arguments.batch, arguments.length, arguments.chunk) >= 1, "--batch, --length and --chunk start at 1")
    shape = shape_of(arguments)
    rows = [(plan, parts(plan, shape, arguments.batch, arguments.length, arguments.chunk)) for plan in PLANS]
    names = list(rows[0][1])
    print("GB per GPU, computed:")
    print("| run | " + " | ".join(names) + " | total |\n" + "|---" * (len(names) + 2) + "|")
    for plan, found in rows:
        cells = [f"{found[name] / 1e9:.1f}" for name in names]
        print(f"| {plan.name} | " + " | ".join(cells) + f" | **{sum(found.values()) / 1e9:.1f}** |")


if __name__ == "__main__":
    exit_with_message(main)
