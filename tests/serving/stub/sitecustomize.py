"""Let Triton's interpreter run on a machine without a GPU: vLLM's runner for diffusion models asks for an active backend.

For tests alone; found by Python at start-up where this folder is in PYTHONPATH.
"""

import triton.backends as backends


class NoDriver:
    @staticmethod
    def is_active() -> bool:
        return False


backends.backends["cpu"] = backends.Backend(backends.backends["nvidia"].compiler, NoDriver)
