"""The benchmark suite: right before fast, honest about others, its pictures made from its files."""

import json
import sys

import pytest
import reference
import torch

import cliffnn.functional as F
from benchmarks import __main__ as command
from benchmarks import cases, contenders, measure, peers, plain, pointwise, startup, summary, timing, warm
from benchmarks.cases import Case
from cliffnn import Algebra

CPU = torch.device("cpu")
TINY = {
    "grid": [Case("operator", algebra, rows, 4) for algebra in ("R2", "R3") for rows in (6, 70)],
    "layers": [Case("block", "R3", 5, 4), Case("linear", "R3", 5, 4)],
    "scaling": [
        *(Case("operator", "R2", rows, 4, "rows") for rows in (8, 16)),
        *(Case("operator", algebra, 8, 4, "blades") for algebra in ("R2", "R3")),
    ],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Sizes and repeats for a test; the precision of matrix products as it was."""
    for part, of_part in TINY.items():
        monkeypatch.setitem(cases._PARTS, part, lambda gpu, of_part=of_part: of_part)
    monkeypatch.setattr(timing, "_BUDGET", 1)
    monkeypatch.setattr(timing, "copy_bandwidth", lambda device: 1e10)
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
    command.main()


@pytest.mark.parametrize("axis", [-2, 0])
@pytest.mark.parametrize("name", ["R2", "R3"])
def test_plain_torch_equals_the_reference(name, axis):
    algebra = Algebra(name)
    signature = (algebra.p, algebra.q, algebra.r)
    x, y = torch.randn(2, 7, len(algebra), 5, dtype=torch.float64)
    own = [t.transpose(0, 1) if axis == 0 else t for t in (x, y)]
    weight = torch.randn(len(algebra.paths), 5, dtype=torch.float64)
    matrices, bias = torch.randn(len(algebra.grades), 5, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    mixed = torch.einsum("rbi,boi->rbo", x, matrices[list(algebra.grade_of_blades)])
    shifted = mixed.clone()
    shifted[:, 0] += bias
    for got, wanted in (
        (plain.operator(algebra, axis)(*own, weight), reference.gelu_sgp_norm(x, y, weight, signature)),
        (plain.linear(algebra, axis)(own[0], matrices), mixed),
        (
            plain.block(algebra, axis)(own[0], matrices, bias, weight),
            reference.gelu_sgp_norm(x, shifted, weight, signature),
        ),
    ):
        torch.testing.assert_close(got.transpose(0, 1) if axis == 0 else got, wanted)


def test_a_run_writes_files_and_pictures(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run(monkeypatch, "--part", *TINY, "--output", tmp_path)
    for part, of_part in TINY.items():
        content = json.loads((tmp_path / f"{part}.json").read_text())
        assert {"device", "versions", "commit", "command", "copy_bandwidth", "summary"} <= set(content)
        assert len(content["results"]) == len(of_part)
        for case in content["results"]:
            ours = case["contenders"]["cliffnn"]
            assert ours["relative_error"] < 1e-4
            for mode in measure.MODES:
                assert ours[mode]["loop_ms"] > 0
                assert case["floor_ms"][mode] > 0
    grid = json.loads((tmp_path / "grid.json").read_text())
    assert grid["summary"]["operator"]["dense-einsum"]["forward"]["loop_speedup"]["cases"] == 4
    assert set(json.loads((tmp_path / "scaling.json").read_text())["growth"]) == {"rows", "blades"}
    pictures = {"grid-loop-speedup-dense-einsum.png", "scaling.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures

    for name in pictures:
        (tmp_path / name).unlink()
    run(monkeypatch, "--plot", tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == pictures
    assert "cliffnn is right in 4 cases" in capsys.readouterr().out


def test_nothing_is_reported_if_ours_is_wrong(monkeypatch, tmp_path):
    right = F.gelu_sgp_norm
    monkeypatch.setattr(F, "gelu_sgp_norm", lambda x, y, w, algebra: right(x, y, w, algebra) * (1 + 1e-3))
    with pytest.raises(SystemExit, match=r"operator R2 6x4: relative error 1\.0e-03; nothing is measured"):
        run(monkeypatch, "--part", "grid", "--output", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_reported_if_a_gradient_of_ours_is_wrong(monkeypatch, tmp_path):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.001

    right = F.gelu_sgp_norm
    monkeypatch.setattr(F, "gelu_sgp_norm", lambda x, y, w, algebra: right(x, y, Wrong.apply(w), algebra))
    with pytest.raises(SystemExit, match=r"relative error 1\.0e-03"):
        run(monkeypatch, "--part", "grid", "--output", tmp_path)


def test_another_that_is_wrong_or_fails_is_said_to_be(monkeypatch, tmp_path, capsys):
    def wrong(case, parameters):
        return contenders.Built(lambda x, y: 2 * x * y * parameters[0].sum(0), parameters)

    def failing(case, parameters):
        raise RuntimeError("no such size\nand more")

    available = {
        "cliffnn": {"operator": contenders.ours_operator},
        "wrong": {"operator": wrong},
        "failing": {"operator": failing},
    }
    monkeypatch.setattr(peers, "available", lambda path: available)
    run(monkeypatch, "--part", "grid", "--output", tmp_path)
    content = json.loads((tmp_path / "grid.json").read_text())
    for case in content["results"]:
        assert case["contenders"]["wrong"]["wrong"] is True
        assert case["contenders"]["wrong"]["forward"]["loop_ms"] > 0
        assert case["contenders"]["failing"] == {"fails": "RuntimeError: no such size"}
    found = content["summary"]["operator"]
    assert found["wrong"] == {"wrong": 4, "fails": 0, "forward": {}, "forward_backward": {}}
    assert found["failing"]["fails"] == 4
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "no such size" in out


def test_one_that_fails_in_a_loop_stops_nobody(monkeypatch, tmp_path):
    def failing(case, parameters):
        # enough for the check
        built, calls = contenders.ours_operator(case, parameters), iter(range(4))

        def run_so_often(x, y):
            next(calls)
            return built.run(x, y)

        return contenders.Built(run_so_often, parameters)

    available = {
        "failing": {"operator": failing},
        "cliffnn": {"operator": contenders.ours_operator},
    }
    monkeypatch.setattr(peers, "available", lambda path: available)
    run(monkeypatch, "--part", "grid", "--output", tmp_path)
    content = json.loads((tmp_path / "grid.json").read_text())
    for case in content["results"]:
        assert case["contenders"]["failing"]["fails"].startswith("StopIteration")
        assert all(case["contenders"]["cliffnn"][mode]["loop_ms"] > 0 for mode in measure.MODES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contenders", "nobody"], "--contenders: got nobody, wanted some of cliffnn, "),
        (["--flash-clifford", "/nowhere"], "--flash-clifford: /nowhere holds no ops/__init__.py"),
        (["--plot", "/nowhere"], "--plot: /nowhere holds no results"),
        (["--warm", "-1"], "--warm: got -1, wanted a number of processes"),
    ],
)
def test_wrong_arguments_are_named(monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, *arguments)


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A stand-in for flash-clifford: its layouts and names, computed by plain torch; a bias on every blade."""
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "__init__.py").write_text(
        "import torch\n"
        "from benchmarks import plain\n"
        "from cliffnn import Algebra\n"
        "def operator(name):\n"
        "    algebra = Algebra(name)\n"
        "    theirs = sorted(algebra.paths, key=lambda path: (path[0], path[2], path[1]))\n"
        "    order = [theirs.index(path) for path in algebra.paths]\n"
        "    return lambda x, y, weight: plain.operator(algebra, 0)(x, y, weight.T[order])\n"
        "fused_gelu_sgp_norm_2d, fused_gelu_sgp_norm_3d = operator('R2'), operator('R3')\n"
    )
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "layer.py").write_text(
        "import torch\n"
        "from ops import fused_gelu_sgp_norm_3d\n"
        "class Layer(torch.nn.Module):\n"
        "    def __init__(self, channels, dims):\n"
        "        super().__init__()\n"
        "        self.gp_weight = torch.nn.Parameter(torch.zeros(channels, 20))\n"
        "        self.linear_weight = torch.nn.Parameter(torch.zeros(4, channels, channels))\n"
        "        self.linear_bias = torch.nn.Parameter(torch.zeros(1, 1, channels))\n"
        "    def forward(self, x):\n"
        "        y = torch.bmm(x, self.linear_weight[[0, 1, 1, 1, 2, 2, 2, 3]]) + self.linear_bias\n"
        "        return fused_gelu_sgp_norm_3d(x, y, self.gp_weight)\n"
    )
    yield tmp_path
    for name in ("ops", "modules", "modules.layer"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_every_contender_is_right(checkout):
    for name, builders in peers.available(checkout).items():
        for case in (Case("operator", "R2", 9, 4), Case("operator", "R3", 70, 5), *TINY["layers"]):
            if case.subject in builders and not name.startswith(contenders.COMPILED):
                prepared = measure.prepare(case, builders[case.subject], CPU)
                assert measure.relative_error(prepared) < 1e-5, f"{name}: {case}"


def test_compiling_ahead():
    available = {name: builders for name, builders in contenders.contenders().items() if name != contenders.COMPILED}
    available.pop(contenders.COMPILED_BLADES_FIRST)
    work = warm.tasks([*TINY["scaling"], *TINY["layers"]], available)
    # ours alone compiles; 8 rows of R2 are in both curves
    assert len(work) == 3 + 2
    assert warm.warm(work, "cpu", None, 1, 300) == set()
    assert warm.warm(work, "cpu", None, 1, 0) == set(work)


def test_ratios_of_memory_and_device_time(tmp_path):
    """What only a GPU measures, on made-up figures."""
    plots = pytest.importorskip("benchmarks.plots")

    def times(factor):
        return {mode: {"kernel_ms": factor, "loop_ms": 2.0, "peak_bytes": 100 * factor} for mode in measure.MODES}

    result = {
        "subject": "operator",
        "algebra": "R2",
        "rows": 8,
        "channels": 4,
        "curve": "",
        "tensor_bytes": 512,
        "floor_ms": {"forward": 0.1, "forward_backward": 0.2},
        "contenders": {"cliffnn": times(1), "peer": times(3), "broken": {"fails": "RuntimeError"}},
    }
    found = summary.summary([result, {**result, "rows": 16, "contenders": {"cliffnn": times(4), "peer": times(2)}}])
    assert found["operator"]["peer"]["forward"] == {
        "kernel_speedup": {"median": 1.75, "least": 0.5, "least_at": "R2 16x4", "cases": 2},
        "loop_speedup": {"median": 1.0, "least": 1.0, "least_at": "R2 8x4", "cases": 2},
        "memory_ratio": {"median": 1.75, "least": 0.5, "least_at": "R2 16x4", "cases": 2},
    }
    assert any("OURS IS WORSE" in line for line in summary.lines(found))
    (tmp_path / "grid.json").write_text(json.dumps({"part": "grid", "device": "none", "results": [result]}))
    drawn = {path.name for path in plots.draw(tmp_path)}
    assert drawn == {f"grid-{what}-peer.png" for what in ("kernel-speedup", "loop-speedup", "memory-ratio")}


def test_first_steps():
    figures = startup.measure_step("R2", 3, "cpu", repeats=1)
    assert set(figures) == {"cold", "cold_with_warmup", "warm"}
    for name, of_name in figures.items():
        assert (of_name["warmup"] > 1e-3) == (name == "cold_with_warmup")
        assert 0 < of_name["forward"] + of_name["backward"] <= of_name["total"] + 1e-3
    # generating takes longer than reading what was generated
    assert figures["warm"]["total"] < figures["cold"]["total"]
    assert figures["cold_with_warmup"]["forward"] < figures["cold_with_warmup"]["warmup"]


@pytest.mark.parametrize("name", pointwise.EXPRESSIONS)
def test_pointwise_contenders_compute_the_same(name):
    op = pointwise.EXPRESSIONS[name]
    sizes = [len(op.algebra.blades_of(grades)) for grades in op.grades.values()]
    tensors = [torch.randn(5, n, 3, dtype=torch.float64) for n in sizes]
    for contender in (pointwise.plain, pointwise.by_kingdon):
        torch.testing.assert_close(contender(op)(*tensors), op(*tensors))


def test_pointwise(monkeypatch, tmp_path):
    """Compilers are left to who asks for them."""
    monkeypatch.setattr(pointwise, "copy_bandwidth", lambda device: 1e10)
    monkeypatch.setattr(pointwise, "cold", lambda case, contender: 1.0)
    path = tmp_path / "pointwise.json"
    options = "--device", "cpu", "--contender", "cliffnn", "kingdon", "--case", "rotor/80/2", "reflect/80/2"
    monkeypatch.setattr(sys, "argv", ["pointwise", "--output", str(path), *options])
    pointwise.main()
    content = json.loads(path.read_text())
    assert {"device", "versions", "commit", "command", "copy_bandwidth"} <= set(content)
    rotor, reflect = content["results"]
    ours = reflect["contenders"]["cliffnn"]
    assert ours["relative_error"] < pointwise.TOLERANCE
    # read 3 + 8 numbers, write 8; backward read the gradient too, and write 3 + 8
    assert ours["forward"]["floor_ms"] == round(4 * 160 * 19 / 1e10 * 1e3, 5)
    assert ours["backward"]["floor_ms"] == round(4 * 160 * 30 / 1e10 * 1e3, 5)
    assert rotor["contenders"]["kingdon"]["forward_backward"]["loop_ms"] > 0

    monkeypatch.setitem(pointwise.CONTENDERS, "cliffnn", lambda op: lambda *inputs: op(*inputs) * 1.001)
    path.unlink()
    with pytest.raises(SystemExit, match=r"rotor/80/2: relative error 1\.0e-03; nothing is reported"):
        pointwise.main()
    assert not path.exists()
