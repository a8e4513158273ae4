"""A plugin for vLLM: the reasoning of models whose vocabulary spells `</think>` in several tokens.

vLLM's own parsers for these tags need them to be one token each. vLLM loads this file in its own environment, which has
nothing else of this project. Written for vLLM 0.26; the prompt has opened the thought.
"""

from vllm.entrypoints.openai.engine.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

END = "</think>"


def parts(text):
    """Thought and answer, or none yet. The end of a text that may become the tag belongs to neither."""
    thought, tag, answer = text.partition(END)
    if not tag:
        begun = next((n for n in range(len(END) - 1, 0, -1) if thought.endswith(END[:n])), 0)
        thought = thought[: len(thought) - begun]
    return thought, answer


@ReasoningParserManager.register_module("text_tags")
class TextTags(ReasoningParser):
    """Splits the text at its first `</think>`. Where a stream has come to is read off the text, each time anew."""

    reasoning_start_str, reasoning_end_str = "<think>", END

    def is_reasoning_end(self, input_ids):
        """Never, so that the whole stream is handed to `extract_reasoning_streaming`."""
        return False

    def extract_content_ids(self, input_ids):
        """Asked only after the end, which is never told."""
        return []

    def extract_reasoning(self, model_output, request):
        thought, tag, answer = model_output.partition(END)
        return thought or None, (answer if tag else None) or None

    def extract_reasoning_streaming(self, previous_text, current_text, delta_text, *token_ids, **more):
        before, now = parts(previous_text), parts(current_text)
        thought, answer = (new[len(old) :] for old, new in zip(before, now, strict=True))
        return DeltaMessage(reasoning=thought or None, content=answer or None) if thought or answer else None
