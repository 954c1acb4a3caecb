"""The wire formats we speak with kubelet, and the code generated from them by scripts/generate-protos."""
