"""Multiple-choice questions: public benchmarks, one's own files, the packaged set."""
