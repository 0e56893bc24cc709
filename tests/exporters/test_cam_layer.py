import pytest
import torch

from qcam.common.errors import QcamError
from qcam.exporters.cam_layer import resolve_cam_layer
from qcam.exporters.export import ExportOptions, export_bundle
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
    assert bundle.cam_layer["requested"] == "head.1"


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
