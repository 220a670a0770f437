"""Reads an ONNX file without ONNX Runtime and refuses what could harm: only what our exporters emit passes."""
