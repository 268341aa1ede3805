"""From a torch module to a graph file: ONNX, graph optimisation, quantisation, parity."""
