"""The one training loop, used by training, distillation, fine-tuning and QAT."""
