"""What every test gets: the interpreter where there is no GPU, poisoned memory, its own cache, a seed."""

import contextlib
import importlib.util
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when a kernel is decorated, so it has to be set before any is imported.
    os.environ["TRITON_INTERPRET"] = "1"
else:
    # Deterministic algorithms, which the poison needs, refuse cuBLAS without a fixed workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# On tensors this small a second thread costs more than it gives: seven times more on two busy cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Generated code of the tests goes to a folder of their own, empty at the start."""
    folder = tmp_path_factory.mktemp("cliffnn-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIFFNN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interpreter_that_rounds():
    """Triton's interpreter cuts float32 down to bfloat16; make it round to nearest, as every GPU does."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast = InterpreterBuilder.cast_impl

    def rounding_cast(self, source, target):
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        rounded = torch.from_numpy(np.array(source.data)).bfloat16().view(torch.int16)
        return TensorHandle(rounded.numpy().view(np.uint16), target.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "cast_impl", rounding_cast)
        yield


@pytest.fixture(autouse=True)
def poison():
    """Fill fresh memory with NaN, so that reading or leaving what no kernel wrote shows in the result.

    Torch does this itself under deterministic algorithms, in `empty`, `empty_like`, `new_empty`,
    `empty_strided`, `resize_` alike and inside compiled code, where a patched `torch.empty` would
    miss some and confuse the compiler. It also makes torch refuse its own nondeterministic kernels.
    """
    before = torch.get_deterministic_debug_mode()
    # Not `use_deterministic_algorithms`: that one imports and configures inductor too.
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.fixture(autouse=True)
def seed():
    """The same numbers in every run, whichever tests are chosen."""
    torch.manual_seed(0)


@pytest.fixture
def refused(capsys):
    """Gives an experiment's command line arguments that it has to refuse in one line; the line."""

    def run(main, arguments):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Every device there is."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(request.param)


@pytest.fixture
def gpu_memory():
    """Asks for bytes of the GPU's memory: tests that need gigabytes run one at a time, in however many processes."""
    with contextlib.ExitStack() as stack:

        def ask(size):
            if size > 2**30:
                stack.enter_context(_alone())
            # what the others hold, they may be about to give back
            for _ in range(60):
                if torch.cuda.mem_get_info()[0] > size:
                    break
                time.sleep(1)
            else:
                pytest.skip(f"needs {size / 2**30:.0f} GiB of free memory on the GPU")
            stack.callback(torch.cuda.empty_cache)

        yield ask


@contextlib.contextmanager
def _alone():
    import fcntl

    with open(Path(tempfile.gettempdir()) / f"cliffnn-tests-{os.getuid()}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
