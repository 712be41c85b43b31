"""Anthropic's client: URL KEY MODEL -> what came back, on one line. Runs where only `anthropic` is installed."""

import sys

import anthropic

url, key, model = sys.argv[1:]
claude = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
ask = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}

whole = claude.messages.create(**ask)
with claude.messages.stream(**ask) as stream:
    kinds = [event.type for event in stream]
    streamed = stream.get_final_message()
assert whole.usage.output_tokens == 8
assert streamed.content[0].text == whole.content[0].text
assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
try:
    claude.with_options(api_key="wrong").messages.create(**ask)
except anthropic.AuthenticationError as error:
    refused = type(error).__name__
else:
    sys.exit("a wrong key was taken")
print(f"8 tokens, {kinds[0]} to {kinds[-1]} in {len(kinds)} events with the same text, {refused}")
