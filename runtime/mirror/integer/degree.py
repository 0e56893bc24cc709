"""From how many tables on ONNX Runtime adds down columns four values at a time.

It does so where there are at least as many tables as its session has threads, two or more; else row by row. So what an x86
machine computes depends on how many threads the session has and on how many images it runs at a time. Asked, not assumed: on
processors with cores of two kinds, there may be more threads than were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

#: Tables up to which it is asked.
_MOST = 4096


@dataclass
class Deployment:
    """How the deployed session runs; a mirror keeps the number of images up to date.

    Attributes:
        threads: Of the session; 0 for as many as ONNX Runtime takes by itself.
        images: That it runs at a time.
    """

    threads: int = 0
    images: int = 1

    def in_fours(self, tables: int, images: int) -> bool:
        """Tell whether columns are added four values at a time on x86.

        Args:
            tables: How many there are of some of the images.
            images: How many of them that is.
        """
        return tables * self.images >= least_tables(self.threads) * images


@lru_cache(maxsize=16)
def least_tables(threads: int) -> int:
    """Return from how many tables on a session of so many threads adds in fours; more than there can be if it never does."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        "columns",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tables", 8, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Four times 3 is lost in 1e8 one by one, and is not at once.
    column = np.array([1e8, 0, 0, 0, 3, 3, 3, 3], np.float32)
    for tables in range(2, _MOST):
        x = np.broadcast_to(column[:, None], (tables, 8, 2)).copy()
        if session.run(["y"], {"x": x})[0][0, 0] != np.float32(1e8) / np.float32(8):
            return tables
    return 2**62
