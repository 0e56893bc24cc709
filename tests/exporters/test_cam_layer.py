import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from qcam.common.errors import QcamError
from qcam.exporters.cam_layer import resolve_cam_layer
from qcam.exporters.export import ExportOptions, export_bundle
from qcam.exporters.layout import is_map_with_channels_last, layout_of
from qcam.exporters.onnx_export import export_float
from qcam.models.sources import load_model
from qcam.runtime.graph import Graph


@pytest.fixture(scope="module")
def mobilenet():
    loaded = load_model("mobilenet_v2", "random:0")
    model, modules = export_float(loaded.module, (224, 224))
    return loaded, model, modules, Graph(model)


def resolve(mobilenet, requested):
    loaded, _, modules, graph = mobilenet
    return resolve_cam_layer(graph, modules, loaded.module, requested)


def test_the_default_is_the_last_feature_map_after_its_activation(mobilenet):
    tensor = resolve(mobilenet, "features.18")
    assert mobilenet[3].producer[tensor].op_type == "Clip"
    assert mobilenet[3].shapes[tensor][1:] == (1280, 7, 7)
    assert resolve(mobilenet, "") == tensor


def test_a_module_path_means_the_module_output(mobilenet):
    assert mobilenet[3].shapes[resolve(mobilenet, "features.17")][1:] == (320, 7, 7)
    assert mobilenet[3].shapes[resolve(mobilenet, "features.2")][1:] == (24, 56, 56)


def test_a_module_path_carries_what_torch_computes_there(mobilenet):
    """Not only the right shape: the very values, by hooks on the torch model against the mirror."""
    from qcam.runtime.bundle import PrecisionEntry, Tap
    from qcam.runtime.mirror import Mirror

    loaded, model, _, _ = mobilenet
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for path in ("features.0", "features.3", "features.17", "features.18"):
        seen = []
        hook = loaded.module.get_submodule(path).register_forward_hook(lambda *args, seen=seen: seen.append(args[2].clone()))
        with torch.no_grad():
            loaded.module(image)
        hook.remove()
        tensor = resolve(mobilenet, path)
        mirror = Mirror(model, PrecisionEntry("f32", "", "", "logits", Tap(tensor, tensor, "float32")))
        torch.testing.assert_close(mirror.forward(image).tap, seen[0], rtol=1e-3, atol=1e-4)


def test_a_tensor_name_is_taken_as_it_is(mobilenet):
    tensor = resolve(mobilenet, "features.18")
    assert resolve(mobilenet, tensor) == tensor


def test_a_layer_that_does_not_exist_names_the_nearest(mobilenet):
    with pytest.raises(QcamError, match=r"features\.99 does not exist; nearest .*features\.\d"):
        resolve(mobilenet, "features.99")


def test_a_layer_that_is_no_map_names_spatial_ones(mobilenet):
    with pytest.raises(QcamError, match=r"classifier\.1 is no feature map \(shape batch×1000\); .*features"):
        resolve(mobilenet, "classifier.1")


def test_a_layer_that_was_folded_away_names_its_neighbours(mobilenet):
    with pytest.raises(QcamError, match=r"features\.0\.0 vanished by fusion \(BatchNorm was folded.*features\.0\.1"):
        resolve(mobilenet, "features.0.0")


def test_a_tensor_that_quantization_merged_is_named(tmp_path, export_tiny):
    with pytest.raises(QcamError, match=r"vanished by fusion in int16 .*tensors that carry codes"):
        export_tiny(tmp_path / "b", cam_layer="head.1")
    assert not (tmp_path / "b").exists()


def test_the_same_layer_still_exists_in_float(tmp_path, export_tiny):
    bundle = export_tiny(tmp_path / "b", cam_layer="head.1", precisions=("f32",))
    assert bundle.cam_layer.requested == "head.1"


def test_a_network_without_maps_is_refused(tmp_path):
    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3 * 8 * 8, 4)

        def forward(self, x):
            return self.linear(x.flatten(1))

    module = Flat().eval()
    model, modules = export_float(module, (8, 8))
    with pytest.raises(QcamError, match="no feature map"):
        resolve_cam_layer(Graph(model), modules, module, "")


def test_options_default_to_the_models_own_layer():
    assert ExportOptions().cam_layer is None
    assert export_bundle.__doc__


def exported(name, size):
    loaded = load_model(name, "random:0")
    model, modules = export_float(loaded.module, size)
    return loaded, modules, Graph(model)


def test_m15_the_default_is_the_map_before_any_pooling():
    loaded, modules, graph = exported("alexnet", (224, 224))
    assert resolve_cam_layer(graph, modules, loaded.module, loaded.cam_layer) == modules["features.11"]
    assert graph.producer[modules["features.11"]].op_type == "Relu"


def test_m15_a_pooling_inside_a_block_is_no_end():
    loaded, modules, graph = exported("googlenet", (96, 96))
    assert resolve_cam_layer(graph, modules, loaded.module, "") == modules["inception5b"]


def test_m15_a_residual_sum_whose_branch_was_rearranged_and_put_back_is_a_map():
    loaded, modules, graph = exported("convnext_tiny", (64, 64))
    assert resolve_cam_layer(graph, modules, loaded.module, "") == modules["features.7"]


@pytest.fixture(scope="module")
def mambaout():
    return exported("timm:test_mambaout", (160, 160))


@pytest.mark.parametrize("by_name", [False, True])
def test_m16_a_map_with_its_channels_last_is_handed_out_with_them_first(mambaout, by_name):
    loaded, modules, before = mambaout
    model = onnx.ModelProto()
    model.CopyFrom(before.model)
    last = [path for path, tensor in modules.items() if before.is_spatial(tensor) and layout_of(before, tensor) == "last"]
    tensor = resolve_cam_layer(Graph(model), modules, loaded.module, last[-1] if by_name else "")
    after = Graph(model)
    onnx.checker.check_model(model, full_check=True)
    (transposed,) = after.producer[tensor].input
    assert tensor not in before.producer
    assert transposed in before.producer
    assert layout_of(after, tensor) == "first"
    assert all(node.output[0] == tensor for node in after.consumers[transposed])
    for name in (tensor, transposed):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    images = {after.image_input: np.random.default_rng(0).normal(size=(2, 3, 160, 160)).astype(np.float32)}
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run
    found, first, map_ = run([before.outputs[0], tensor, transposed], images)
    plain = onnxruntime.InferenceSession(before.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = plain.run(before.outputs[:1], images)
    np.testing.assert_array_equal(first, map_.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)


def test_m16_a_map_of_which_the_channels_cannot_be_told_is_refused():
    loaded, modules, graph = exported("timm:test_vit", (160, 160))
    unknown = [node.output[0] for node in graph.model.graph.node if graph.is_spatial(node.output[0])]
    unknown = [name for name in unknown if layout_of(graph, name) is None]
    with pytest.raises(QcamError, match=r"has axes of which the channels' cannot be told \(shape batch×"):
        resolve_cam_layer(graph, modules, loaded.module, unknown[-1])


def around(*nodes):
    """A graph of four dimensions everywhere, from `x` to `y`."""
    inner = [onnx.helper.make_tensor_value_info(name, 1, ["n", 4, 4, 4]) for name in ("a", "b", "c")]
    edges = [onnx.helper.make_tensor_value_info(name, 1, ["n", 4, 4, 4]) for name in ("x", "y")]
    axes = onnx.numpy_helper.from_array(np.array([-1, -2]), "axes")
    others = onnx.numpy_helper.from_array(np.array([1, 2]), "others")
    made = [onnx.helper.make_node(kind, reads, [makes], **options) for kind, reads, makes, options in nodes]
    graph = onnx.helper.make_graph(made, "g", edges[:1], edges[1:], [axes, others], value_info=inner)
    return Graph(onnx.helper.make_model(graph))


LAYOUTS = {
    "behind a convolution": ([("Conv", ["x", "w"], "a", {}), ("Relu", ["a"], "y", {})], "y", "first"),
    "pooled over the last two axes": ([("Relu", ["x"], "a", {}), ("ReduceMean", ["a", "axes"], "y", {})], "a", "first"),
    "pooled over the middle axes": ([("Relu", ["x"], "a", {}), ("ReduceMean", ["a", "others"], "y", {})], "a", "last"),
    "behind a product": ([("MatMul", ["x", "w"], "a", {}), ("Gelu", ["a"], "y", {})], "y", "last"),
    "put back": (
        [("MatMul", ["x", "w"], "a", {}), ("Transpose", ["a"], "b", {"perm": [0, 3, 1, 2]}), ("Relu", ["b"], "y", {})],
        "y", "first",
    ),
    "unknown": ([("Reshape", ["x", "w"], "a", {}), ("Relu", ["a"], "y", {})], "y", None),
    "contradictory": ([("Conv", ["x", "w"], "a", {}), ("ReduceMean", ["a", "others"], "y", {})], "a", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_m16_the_layout_is_told_by_evidence_never_by_sizes(kind):
    nodes, tensor, wanted = LAYOUTS[kind]
    assert layout_of(around(*nodes), tensor) == wanted


POSITIONS = {
    "pooled over the middle axes": ([("Relu", ["x"], "a", {}), ("ReduceMean", ["a", "others"], "y", {})], "a", True),
    "a convolution's, turned": (
        [("Conv", ["x", "w"], "a", {}), ("Transpose", ["a"], "b", {"perm": [0, 2, 3, 1]}), ("MatMul", ["b", "w"], "y", {})],
        "b", True,
    ),
    "turned for a convolution": (
        [
            ("MatMul", ["x", "w"], "a", {}), ("Relu", ["a"], "b", {}), ("Transpose", ["b"], "c", {"perm": [0, 3, 1, 2]}),
            ("Conv", ["c", "w"], "y", {}),
        ],
        "a", True,
    ),
    "scores of attention": ([("MatMul", ["x", "w"], "a", {}), ("Softmax", ["a"], "y", {})], "a", False),
    "keys of attention": (
        [("Reshape", ["x", "w"], "a", {}), ("Transpose", ["a"], "b", {"perm": [0, 2, 3, 1]}), ("MatMul", ["x", "b"], "y", {})],
        "b", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", POSITIONS)
def test_m16_that_the_other_axes_are_height_and_width_is_told_by_evidence(kind):
    nodes, tensor, wanted = POSITIONS[kind]
    assert is_map_with_channels_last(around(*nodes), tensor) == wanted
