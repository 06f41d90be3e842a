"""The LFADS/BAND computation on a leading member axis: tensors in, tensors out."""
