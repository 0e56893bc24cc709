import gc
import weakref
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from block_graph import CLASSES, CODES, Nodes, entry_of, images, mirror_of, runtime_values, skip_graph, tap, whole
from mirror_single import floats, ints, run_runtime
from onnx import TensorProto, helper, numpy_helper
from whole_graph import WholeGraph

from qcam.common.errors import QcamError
from qcam.runtime.bundle import Tap, load_onnx
from qcam.runtime.loaded import followed
from qcam.runtime.mirror import Mirror, registry


def gradient_inputs(mirror, batch):
    """Return the dequantized tap and skips of a forward pass."""
    outputs = mirror.forward(batch)
    entry = mirror.entry
    skips = [mirror.dequantize(skip, value) for skip, value in zip(entry.skips, outputs.skips, strict=True)]
    return mirror.dequantize(entry.tap, outputs.tap), skips


def full_gradient(mirror, dtype, batch, targets, tensor):
    """Return the gradient at a tensor by autograd through the whole graph."""
    seen = []

    def watch(compute):
        def watched(*inputs, **attributes):
            seen.append(compute(*inputs, **attributes))
            return seen[-1]

        return watched

    whole = WholeGraph(mirror, skip_graph(dtype))
    program = whole.program
    program.steps = [replace(step, compute=watch(step.compute)) if tensor in step.outputs else step for step in program.steps]
    logits = whole.logits(torch.from_numpy(batch).requires_grad_())
    (gradient,) = torch.autograd.grad(logits.gather(1, torch.tensor(targets)[:, None]).sum(), seen[0])
    return gradient


TYPES = pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, None])
TARGETS = [0, 2, 1, 2]


@TYPES
def test_forward_equals_onnx_runtime_exactly(dtype):
    mirror, batch = mirror_of(dtype), images()
    logits, at, skip = run_runtime(skip_graph(dtype), {"x": batch})
    outputs = mirror.forward(batch)
    assert np.ptp(logits, axis=0).all()
    np.testing.assert_array_equal(outputs.logits.numpy(), logits)
    np.testing.assert_array_equal(outputs.tap.numpy(), at)
    np.testing.assert_array_equal(outputs.skips[0].numpy(), skip)
    assert at.dtype == (dtype or np.float32)
    assert not outputs.logits.requires_grad


@TYPES
def test_logits_are_those_of_forward(dtype):
    mirror, batch = mirror_of(dtype), torch.from_numpy(images())
    assert torch.equal(WholeGraph(mirror, skip_graph(dtype)).logits(batch), mirror.forward(batch).logits)


@TYPES
def test_gradient_equals_autograd_through_the_whole_graph(dtype):
    mirror, batch = mirror_of(dtype), images()
    activation, skips = gradient_inputs(mirror, batch)
    gradient = mirror.gradient(activation, np.array(TARGETS), skips)
    assert gradient.shape == activation.shape
    assert 0 < int(gradient.count_nonzero()) < gradient.numel()
    torch.testing.assert_close(gradient, full_gradient(mirror, dtype, batch, TARGETS, "t_d" if dtype else "t"))


@TYPES
def test_gradient_equals_the_one_derived_by_hand(dtype):
    # d logit / d t[k] = Σ_m w4[class, m] / 16 · (v > 0 and none of u, v, g clamped)[m] · w3[m, k], from ONNX Runtime.
    mirror, batch = mirror_of(dtype), images()
    values = runtime_values(skip_graph(dtype), {"x": batch}, ["t_d" if dtype else "t", "u", "v", "g", "w3", "w4"])

    def unclamped(tensor):
        if dtype is None:
            return np.ones_like(values[tensor], bool)
        scale, zero_point = CODES[tensor]
        span = int(np.iinfo(dtype).max) - int(np.iinfo(dtype).min)
        steps = values[tensor] / np.float32(scale) + zero_point
        return (steps >= 0) & (steps <= span)

    passes = (values["v"] > 0) & unclamped("u") & unclamped("v") & unclamped("g")
    upstream = values["w4"][TARGETS][:, :, None, None] / 16 * passes
    expected = np.einsum("nmhw,mk->nkhw", upstream, values["w3"][:, :, 0, 0])
    activation, skips = gradient_inputs(mirror, batch)
    np.testing.assert_array_equal(mirror.gradient(activation, np.array(TARGETS), skips).numpy(), expected)
    np.testing.assert_array_equal(activation.numpy(), values["t_d" if dtype else "t"])
    if dtype in (np.uint8, np.int8):  # the graph is made so that the straight-through mask decides something
        assert not unclamped("u").all()


def test_gradient_of_one_channel_in_numbers():
    make = Nodes()
    at = make.quantized(make.add("Identity", "t", "x"))
    make.add("Conv", "doubled", at, make.constant("w2", np.full((1, 1, 1, 1), 2, np.float32)))  # 2, -4, 6, 1
    make.add("Relu", "positive", "doubled")  # 2, 0, 6, 1
    make.add("Mul", "u", "positive", make.constant("eight", np.float32(8)))  # 16, 0, 48, 8; u's codes reach 15.875
    make.add("GlobalAveragePool", "mean", make.quantized("u"))
    make.add("Flatten", "flat", "mean")
    make.add("Gemm", "logits", "flat", make.constant("w4", np.array([[3], [-5]], np.float32)), transB=1)
    mirror = Mirror(make.model(["logits", "t_q"], ("batch", 1, 1, 4)), entry_of("logits", tap("t", np.uint8)))
    activation = torch.tensor([[[[1, -2, 3, 0.5]]]])
    # 16 and 48 are clamped, -2 is below 0; only the last passes, by 2 · 8 · w4 / 4.
    assert mirror.gradient(activation, torch.tensor([0])).tolist() == [[[[0, 0, 0, 12]]]]
    assert mirror.gradient(activation, torch.tensor([1])).tolist() == [[[[0, 0, 0, -20]]]]


@TYPES
def test_gradient_of_an_image_does_not_depend_on_its_batch(dtype):
    mirror, batch = mirror_of(dtype), images()
    activation, skips = gradient_inputs(mirror, batch)
    together = mirror.gradient(activation, torch.tensor(TARGETS), skips)
    for index, target in enumerate(TARGETS):
        one = slice(index, index + 1)
        alone = mirror.gradient(activation[one], torch.tensor([target]), [skip[one] for skip in skips])
        torch.testing.assert_close(together[one], alone)


def test_gradient_reads_the_skip():
    mirror = mirror_of()
    activation, (skip,) = gradient_inputs(mirror, images())
    with_skip = mirror.gradient(activation, torch.tensor(TARGETS), [skip])
    assert not torch.equal(with_skip, mirror.gradient(activation, torch.tensor(TARGETS), [skip - 100]))
    with pytest.raises(ValueError, match="shorter"):
        mirror.gradient(activation, torch.tensor(TARGETS))


def test_gradient_leaves_its_inputs_alone():
    mirror = mirror_of()
    activation, skips = gradient_inputs(mirror, images())
    before = activation.clone()
    mirror.gradient(activation, torch.tensor(TARGETS), skips)
    assert torch.equal(activation, before)
    assert not activation.requires_grad


def test_gradient_sums_over_several_readers_of_the_codes():
    make = Nodes()
    first = make.quantized(make.add("Relu", "t", "x"))
    second = make.add("DequantizeLinear", "t_again", "t_q", "t_scale", "t_zero")
    make.add("Mul", "product", first, second)
    make.add("Flatten", "logits", make.add("GlobalAveragePool", "mean", "product"))
    mirror = Mirror(make.model(["logits", "t_q"]), entry_of("logits", tap("t", np.uint8)))
    activation = torch.from_numpy(abs(images(2)))
    gradient = mirror.gradient(activation, torch.tensor([0, 1]))
    expected = torch.zeros_like(activation)
    expected[0, 0], expected[1, 1] = 2 * activation[0, 0] / 16, 2 * activation[1, 1] / 16
    assert torch.equal(gradient, expected)


@TYPES
def test_dequantize_equals_the_taps_own(dtype):
    mirror = mirror_of(dtype)
    outputs = mirror.forward(images())
    for at, values in ((mirror.entry.tap, outputs.tap), (mirror.entry.skips[0], outputs.skips[0])):
        stored = values.numpy().astype(at.dtype)
        expected = at.dequantize(stored)
        np.testing.assert_array_equal(mirror.dequantize(at, values).numpy(), expected)
        np.testing.assert_array_equal(mirror.dequantize(at, stored).numpy(), expected)


def test_constants_that_nothing_reads_any_more_are_dropped():
    mirror = mirror_of()
    kept = mirror._forward.constants | mirror._tail.program.constants
    assert {"w1", "b1", "w2", "w3", "w4", "b4"} <= set(kept)
    assert not [name for name in kept if name.startswith(("w", "b")) and "_" in name]
    assert all(kept[name].dtype == torch.float32 for name in ("w1", "b1", "w4"))


def test_values_are_freed_but_for_what_is_returned():
    mirror = mirror_of()
    values = mirror._forward.run({"x": torch.from_numpy(images())}, mirror._placed)
    assert set(values) == {"logits", "t_q", "s_q"}


def protos():
    """Return all parts of ONNX models that are alive: one of them keeps its whole model, with all of the weights."""
    gc.collect()
    return [found for found in gc.get_objects() if str(type(found).__module__).startswith(("onnx", "google._upb"))]


def large_graph():
    """Return a tap and two layers behind it, with four megabytes of codes."""
    make = Nodes()
    flat = make.quantized(make.add("Flatten", "flat", make.quantized(make.add("Elu", "t", "x"))))
    make.add("Gemm", "many", flat, make.weight("w1", whole(2**17, 32), 1 / 8), transB=1)
    make.add("Gemm", "logits", make.quantized("many"), make.weight("w2", whole(CLASSES, 2**17), 1 / 8), transB=1)
    return make.model(["logits", "t_q"])


@pytest.mark.parametrize("tail_only", [False, True])
def test_the_model_is_released_when_the_mirror_is_made(tail_only):
    before = protos()
    known = {id(found) for found in before}
    model = large_graph()
    assert model.ByteSize() > 4_000_000
    assert any(found is model for found in protos() if id(found) not in known)
    mirror = Mirror(model, entry_of("logits", tap("t", np.uint8)), tail_only=tail_only)
    del model
    assert [found for found in protos() if id(found) not in known] == []
    assert mirror.gradient(torch.from_numpy(abs(images(2))), torch.tensor([0, 1])).shape == (2, 2, 4, 4)


def test_an_integer_mirror_refers_to_no_node_of_the_graph_as_loaded():
    model = large_graph()
    loaded = followed(model)
    parts = [*loaded.model.graph.node, *loaded.model.opset_import]
    entry = entry_of("logits", tap("t", np.uint8))
    mirror = Mirror(model, entry, arithmetic="integer", loaded=loaded, float_kernels=True)
    mirror.forward(images(2))
    assert [group.node.op_type for group in mirror.groups] == [group.node.op_type for group in loaded.groups]
    assert {"Flatten", "Gemm"} <= {group.node.op_type for group in mirror.groups}
    assert any("Elu" in label for label in mirror.delegated)
    del loaded
    gc.collect()
    assert [part for part in parts if gc.get_referrers(part) != [parts]] == []


@pytest.fixture
def own_operator(monkeypatch):
    """Register an operator of domain `of.mine`; returns what its runs were given."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    calls = []

    @registry.operator("Watch", versions=(1,), domain="of.mine")
    def watch(x):
        calls.append(x)
        return x + 1

    return calls


def chain(*operators):
    """Return x → t0 → … → logits by operators of one tensor each."""
    make = Nodes()
    name = "x"
    for index, operator in enumerate(operators):
        output = "logits" if index == len(operators) - 1 else f"t{index}"
        name = make.add(operator, output, name, domain="of.mine" if operator == "Watch" else "")
    return with_own_domain(make.model(["logits", "t0"]))


def with_own_domain(model):
    model.opset_import.append(helper.make_opsetid("of.mine", 1))
    return model


def with_watched_constant(model):
    """Put a Watch of a constant in front of everything else."""
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "c"))
    model.graph.node.insert(0, helper.make_node("Watch", ["c"], ["watched"], domain="of.mine"))
    return model


def simple_entry(output="t0"):
    return entry_of("logits", Tap(output, output, "float32"))


def test_values_are_freed_on_the_way():
    mirror = Mirror(chain("Relu", "Neg", "Neg", "Neg", "Neg"), simple_entry())
    references, alive = [], []

    def negative(x):
        result = -x
        alive.append(sum(reference() is not None for reference in references))
        references.append(weakref.ref(result))
        return result

    program = mirror._forward
    program.steps = [replace(step, compute=negative) if step.label.startswith("Neg") else step for step in program.steps]
    mirror.forward(images())
    assert alive == [0, 1, 1, 1]  # besides the tap, only what the step at work reads


def test_an_unknown_operator_is_refused_before_anything_runs(own_operator):
    Mirror(with_watched_constant(chain("Relu", "Relu")), simple_entry())
    assert len(own_operator) == 1  # what depends on constants alone runs while the graph is built
    with pytest.raises(QcamError, match=r"no operator Det \(domain ai\.onnx, version 11\), needed by node make_t1"):
        Mirror(with_watched_constant(chain("Relu", "Det", "Relu")), simple_entry())
    assert len(own_operator) == 1


def test_an_unknown_attribute_is_refused_before_anything_runs(own_operator):
    model = with_watched_constant(chain("Relu", "Relu"))
    model.graph.node[-1].attribute.append(helper.make_attribute("sparkle", 1))
    with pytest.raises(QcamError, match="does not know attribute sparkle of node make_logits"):
        Mirror(model, simple_entry())
    assert own_operator == []


def test_nothing_but_constants_runs_while_the_graph_is_built(own_operator):
    mirror = Mirror(chain("Relu", "Watch", "Watch"), simple_entry())
    assert own_operator == []
    mirror.forward(images())
    assert len(own_operator) == 2


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN", "BFLOAT16"])
def test_a_constant_of_a_type_torch_lacks_is_refused_by_name(kind):
    model = chain("Relu", "Relu")
    model.graph.initializer.append(helper.make_tensor("tiny", getattr(TensorProto, kind), [2], [1, 2]))
    with pytest.raises(QcamError, match=f"the mirror cannot hold constant tiny of type {kind}"):
        Mirror(model, simple_entry())


def test_weights_quantized_in_blocks_are_refused_while_the_graph_is_built():
    make = Nodes()
    make.constant("w_q", whole(4, 4))
    make.constant("w_scale", np.ones((2, 4), np.float32))
    make.add("DequantizeLinear", "w", "w_q", "w_scale", axis=0, block_size=2)
    make.add("MatMul", "logits", make.add("Relu", "t0", "x"), "w")
    with pytest.raises(QcamError, match="DequantizeLinear with blocks"):
        Mirror(make.model(["logits", "t0"]), simple_entry())


def test_codes_that_something_else_reads_are_refused():
    make = Nodes()
    make.quantized(make.add("Relu", "t", "x"))
    make.add("Cast", "numbers", "t_q", to=onnx.TensorProto.FLOAT)
    make.add("Flatten", "logits", make.add("Add", "sum", "t_d", "numbers"))
    with pytest.raises(QcamError, match="the codes of t are read by something else than DequantizeLinear"):
        Mirror(make.model(["logits", "t_q"]), entry_of("logits", tap("t", np.uint8)))


def test_logits_that_do_not_depend_on_the_tap_are_refused():
    make = Nodes()
    make.add("Relu", "t0", "x")
    make.add("Flatten", "logits", "x")
    with pytest.raises(QcamError, match="the logits do not depend on tensor t0"):
        Mirror(make.model(["logits", "t0"]), simple_entry())


def test_what_torch_cannot_compute_is_named():
    make = Nodes()
    make.add("Relu", "t0", "x")
    make.add("Add", "logits", "t0", make.constant("c", floats(7)))
    mirror = Mirror(make.model(["logits", "t0"]), simple_entry())
    with pytest.raises(QcamError, match="the mirror cannot compute Add make_logits: "):
        mirror.forward(images())


@pytest.mark.parametrize("second", ["", "mask"])
def test_a_second_output_is_refused_if_it_is_wanted(second):
    make = Nodes()
    make.add("Relu", "t0", "x")
    make.add("Dropout", "logits", "t0")
    make.nodes[-1].output.append(second)
    mirror = Mirror(make.model(["logits", "t0"]), simple_entry())
    if second:
        with pytest.raises(QcamError, match="computes only the first 1 outputs of Dropout make_logits"):
            mirror.forward(images())
    else:
        assert (mirror.forward(images()).logits >= 0).all()


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(QcamError, match="mirror arithmetic 'exact' is unknown"):
        Mirror(skip_graph(), entry_of("logits", tap("t", np.uint8), tap("s", np.uint8)), arithmetic="exact")


def test_a_node_that_no_output_needs_does_not_run(own_operator):
    model = chain("Relu", "Relu")
    model.graph.node.append(helper.make_node("Watch", ["t0"], ["unread"], domain="of.mine"))
    Mirror(model, simple_entry()).forward(images())
    assert own_operator == []


def test_constants_of_nodes_go_to_the_device():
    make = Nodes()
    make.add("Relu", "t0", "x")
    make.add("Constant", "c", value=numpy_helper.from_array(floats(4)))
    make.add("Mul", "product", "t0", "c")
    make.add("Constant", "shape", value=numpy_helper.from_array(ints(0, -1)))
    make.add("Reshape", "logits", "product", "shape")
    # PyTorch's `meta` device holds no values, but refuses to mix devices as a GPU does.
    mirror = Mirror(make.model(["logits", "t0"]), simple_entry(), "meta")
    outputs = mirror.forward(images())
    assert outputs.logits.device.type == "meta"
    assert outputs.logits.shape == (4, 32)


@TYPES
def test_the_gradient_runs_on_the_device(dtype):
    mirror = mirror_of(dtype, "meta")
    outputs = mirror.forward(images())
    gradient = mirror.gradient(outputs.tap, np.array(TARGETS), outputs.skips)
    assert gradient.device.type == "meta"
    assert gradient.shape == (4, 2, 4, 4)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_a_tap_is_dequantized_as_without_pytorch(kind, tiny_bundle):
    entry = tiny_bundle.precision("int8")
    mirror, limits = Mirror(load_onnx(tiny_bundle, "int8"), entry, tail_only=True), np.iinfo(kind)
    codes = np.random.default_rng(0).integers(limits.min, limits.max + 1, (3, 5, 6, 7)).astype(kind)
    codes.flat[:2] = limits.min, limits.max
    for zero in (0, int(limits.max) // 3, int(limits.min)):
        tap = replace(entry.tap, dtype=np.dtype(kind).name, scale=float(np.float32(0.0371)), zero_point=zero)
        wanted, before = tap.dequantize(codes), codes.copy()
        for writeable in (True, False):
            codes.flags.writeable = writeable
            found = mirror.dequantize(tap, codes).numpy()
            np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))
            np.testing.assert_array_equal(codes, before)
        codes.flags.writeable = True
        for other in (codes[::-1], codes[:, :, ::-2], codes.astype(codes.dtype.newbyteorder(">"))):
            np.testing.assert_array_equal(mirror.dequantize(tap, other).numpy(), tap.dequantize(other))
