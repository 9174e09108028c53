"""ONNX: both exporters write a sparse layer out as a dense one, and onnxruntime computes what the layer does."""

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

CLOSE = TOLERANCE[torch.float32]
EXPORTERS = {
    "dynamo": lambda model, x, path, sizes: torch.onnx.export(
        model, (x,), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False
    ),
    "torchscript": lambda model, x, path, sizes: torch.onnx.export(
        model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": sizes}
    ),
}
pytestmark = [
    pytest.mark.parametrize("exporter", EXPORTERS),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def assert_exports(model, x, exporter, path, sizes, inputs):
    EXPORTERS[exporter](model, x, path, sizes)
    session = onnxruntime.InferenceSession(path)
    for one in inputs:
        (y,) = session.run(None, {session.get_inputs()[0].name: one.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(one).detach(), **CLOSE)


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_with_any_batch(layout, kind, exporter, tmp_path):
    layer, x = KINDS[kind].made(layout=layout).eval(), KINDS[kind].input()
    inputs = [torch.randn(batch, *x.shape[1:]) for batch in (1, 9)]
    assert_exports(layer, x, exporter, tmp_path / "model.onnx", {0: "batch"}, inputs)


@pytest.mark.parametrize("grad", [True, False])
def test_a_model_with_any_batch_and_length(grad, exporter, tmp_path):
    """With a dense weight, of which products use a part, and with slots that are not used."""
    model = nn.Sequential(
        sx.SparseLinear(16, 8, layout="2:4", capacity=1.0), nn.GELU(), sx.SparseLinear(8, 4, sparsity=0.5, capacity=0.8)
    ).eval()
    inputs = [torch.randn(2, 7, 16), torch.randn(5, 3, 16)]
    with torch.set_grad_enabled(grad):
        sizes = {0: "batch", 1: "length"}
        assert_exports(model, torch.randn(3, 4, 16), exporter, tmp_path / "model.onnx", sizes, inputs)


def test_a_rule_that_changes_values_is_refused(exporter, tmp_path):
    """By the exporter of torch.export in its own words, as it goes on without us."""
    layer = sx.SparseLinear(16, 8, layout="2:4", capacity=1.0)
    layer.choose_("soft")
    sentence = {"torchscript": "'soft'; export the dense model instead", "dynamo": "No ONNX function found for .*nm24_prune"}
    with pytest.raises(Exception, match=sentence[exporter]):
        EXPORTERS[exporter](layer, torch.randn(2, 16), tmp_path / "model.onnx", {0: "batch"})
