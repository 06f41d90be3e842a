"""Past and running runs handed to TensorBoard, Weights & Biases and MLflow, from files alone and without a network."""
