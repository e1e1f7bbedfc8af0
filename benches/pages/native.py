"""onnxruntime natively, for the benchmark: one JSON command a line on the input, one JSON answer a line on the output, an
output's bytes after the line that announces them."""

import json
import sys
import time

import numpy
import onnxruntime

out = sys.stdout.buffer
session = None


def tell(figures, data=b""):
    out.write(json.dumps(figures).encode() + b"\n" + data)
    out.flush()


def open_session(command):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = command["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(command["model"], options, providers=["CPUExecutionProvider"])


def run(command):
    shape = (command["batch"], command["sequence"])
    ids = numpy.array(command["ids"], numpy.int64).reshape(shape)
    wanted = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
    feeds = {given.name: wanted[given.name] for given in session.get_inputs()}
    start = time.perf_counter()
    (output,) = session.run(["last_hidden_state"], feeds)
    ms = (time.perf_counter() - start) * 1e3
    data = output.tobytes() if command["keep"] else b""
    tell({"ms": ms, "output": len(data)}, data)


onnxruntime.set_default_logger_severity(3)
tell({"version": onnxruntime.__version__})
for line in sys.stdin:
    order = json.loads(line)
    try:
        if order["do"] == "open":
            session = open_session(order)
            tell({})
        else:
            run(order)
    except Exception as error:  # Whatever it is, it is the answer.
        tell({"error": f"{type(error).__name__}: {error}"})
