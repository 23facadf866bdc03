"""PyTorch in a process of its own: ``python -m benchmarks.speed_torch`` times what it is told.

It shares neither threads nor memory with JAX, and takes its turns in the same rounds: a line of
JSON in, a line of JSON out. This module imports no JAX.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Torch:
    """The other process, as it is seen from here.

    Args:
        folder: where weights, inputs and results are handed over.
        threads: as many as the rivals may use.
        cuda: whether it runs on the GPU.
    """

    def __init__(self, folder: Path, threads: int, cuda: bool):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed_torch"],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(threads=threads, cuda=cuda)

    def prepare(self, kind: str, dtype: str, backward: bool, arrays: dict[str, np.ndarray]) -> dict:
        """Hand over weights and ``xs``; return the results, and ``peak_bytes`` among them."""
        np.savez(self.folder / "case.npz", allow_pickle=False, **arrays)
        folder = str(self.folder)
        reply = self._ask(kind=kind, dtype=dtype, backward=backward, folder=folder)
        with np.load(self.folder / "results.npz") as results:
            return {**results, **reply}

    def turn(self, repeats: int) -> float:
        """Make the call so many times; return the seconds that it took."""
        return self._ask(repeats=repeats)["seconds"]

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)

    def _ask(self, **request: Any) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError(f"PyTorch's process ended with {self.process.wait()}")
        return json.loads(reply)


# --- in the other process ----------------------------------------------------------------------


def serve() -> None:
    """Answer one request after the other."""
    import torch

    first = json.loads(sys.stdin.readline())
    torch.set_num_threads(first["threads"])
    device = "cuda" if first["cuda"] else "cpu"
    _reply(torch=torch.__version__)
    call: Callable[[], Any] = _nothing
    for line in sys.stdin:
        request = json.loads(line)
        if "repeats" in request:
            _reply(seconds=_seconds(call, request["repeats"]))
        else:
            call = _make_call(torch, device, request)
            results, peak = call(), _peak_bytes(torch, device, call)
            arrays = {name: value.float().cpu().numpy() for name, value in results.items()}
            np.savez(Path(request["folder"]) / "results.npz", allow_pickle=False, **arrays)
            _reply(peak_bytes=peak)


def _reply(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def _nothing() -> None:
    raise RuntimeError("nothing was prepared")


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - begin


def _make_call(torch: Any, device: str, request: dict) -> Callable[[], dict[str, Any]]:
    """Return a call that gives ys, or the loss and its gradient in xs."""
    with np.load(Path(request["folder"]) / "case.npz") as arrays:
        state = {name: torch.tensor(arrays[name]) for name in arrays.files}
    dtype = getattr(torch, request["dtype"])
    xs = state.pop("xs").to(device, dtype)
    width, hidden = xs.shape[-1], state["weight_hh_l0"].shape[-1]
    module = getattr(torch.nn, request["kind"])(width, hidden)
    module.load_state_dict(state)
    module.to(device, dtype)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def forward() -> dict[str, Any]:
        ys = module(xs)[0]
        wait()
        return {"ys": ys}

    def train() -> dict[str, Any]:
        inputs = xs.requires_grad_()
        loss = module(inputs)[0].square().mean()
        gradients = torch.autograd.grad(loss, [inputs, *module.parameters()])
        wait()
        return {"loss": loss.detach(), "d_xs": gradients[0]}

    return train if request["backward"] else forward


def _peak_bytes(torch: Any, device: str, call: Callable[[], Any]) -> int | None:
    """Return what a call takes at its peak, above what stands before it; None if nobody says."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew.
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024  # in kB


if __name__ == "__main__":
    serve()
