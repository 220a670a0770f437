"""The networks as they stand in ONNX: of the family they are named after, equal to torch, small and quick."""

import time

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from detectd.onnx_guard.graph import check_graph
from training.choose import picture_spec
from training.export import ATOL, RTOL, to_onnx
from training.fit import score_windows
from training.models import BACKBONES

SPECS = {
    "1 s": picture_spec((8.0, 992.0), 1.0),
    "2 s": picture_spec((8.0, 992.0), 2.0),
    "0.5 s": picture_spec((100, 3000), 0.5),
}


def network_of(name, spec, *, logarithm=False):
    torch.manual_seed(0)
    return BACKBONES[name](*spec.shape, logarithm=logarithm)


def attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_spec_cnn_is_of_its_family(spec):
    graph = onnx.load_from_string(to_onnx(network_of("spec-cnn", spec), spec)).graph
    convolutions = [attributes(node) for node in graph.node if node.op_type == "Conv"]
    assert 1 <= len(convolutions) <= 3
    for convolution in convolutions:
        for time_long, frequency_short in (convolution["kernel_shape"], convolution["strides"]):
            assert time_long > frequency_short
    assert sum(node.op_type in {"Gemm", "MatMul"} for node in graph.node) == 3
    (channels,) = {node_shape[0] for node_shape in kernels(graph)}
    assert channels % 16 == 0


def kernels(graph):
    return [tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 4]


def test_lenet_is_of_its_family():
    spec = SPECS["1 s"]
    graph = onnx.load_from_string(to_onnx(network_of("lenet", spec), spec)).graph
    assert [shape[0] for shape in kernels(graph)] == [6, 16]
    assert {shape[2:] for shape in kernels(graph)} == {(5, 5)}
    operators = [node.op_type for node in graph.node]
    assert operators.count("AveragePool") == 2
    assert operators.count("Gemm") == 3


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_onnx_equals_torch_in_any_batch(name, spec, logarithm):
    network = network_of(name, spec, logarithm=logarithm)
    graph = to_onnx(network, spec)
    check_graph(graph)
    session = onnxruntime.InferenceSession(graph)
    pictures = np.abs(np.random.default_rng(0).standard_normal((8, *spec.shape), dtype=np.float32))
    for batch in (1, 3, 8):
        (found,) = session.run(["score"], {"windows": pictures[:batch]})
        assert found.shape == (batch,)
        np.testing.assert_allclose(found, score_windows(network, pictures[:batch]), rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_level_does_not_reach_the_network(name, logarithm):
    spec = SPECS["2 s"]
    network = network_of(name, spec, logarithm=logarithm)
    pictures = np.abs(np.random.default_rng(0).standard_normal((4, *spec.shape), dtype=np.float32))
    expected = score_windows(network, pictures)
    for gain in (1e-6, 0.1, 10.0, 1e6):
        np.testing.assert_allclose(score_windows(network, pictures * np.float32(gain)), expected, atol=1e-3)
    for extreme in (np.zeros_like(pictures), pictures * np.float32(1e-30), np.full_like(pictures, 1e30)):
        assert np.isfinite(score_windows(network, extreme)).all()


def test_a_window_of_spec_cnn_takes_microseconds():
    spec = SPECS["2 s"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(network_of("spec-cnn", spec), spec), options)
    pictures = np.abs(np.random.default_rng(0).standard_normal((16, *spec.shape), dtype=np.float32))
    times = []
    for _ in range(200):
        began = time.perf_counter()
        session.run(None, {"windows": pictures})
        times.append(time.perf_counter() - began)
    # The target is 30; the best of many runs, and room for a slower machine, so that this fails for the network only.
    assert min(times) / len(pictures) * 1e6 < 90
