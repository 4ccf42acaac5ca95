"""A student for others: ONNX files behind a quality gate, model cards, the hub."""
