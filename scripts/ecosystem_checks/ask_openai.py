"""OpenAI's client: URL KEY MODEL -> what came back, on one line. Runs where only `openai` is installed."""

import sys

import openai

url, key, model = sys.argv[1:]
ai = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
messages = [{"role": "user", "content": "Hello"}]

whole = ai.chat.completions.create(model=model, messages=messages, max_tokens=8)
events = list(ai.chat.completions.create(model=model, messages=messages, max_tokens=8, stream=True))
streamed = "".join(event.choices[0].delta.content or "" for event in events)
text = ai.completions.create(model=model, prompt="Hello", max_tokens=8)
vectors = ai.embeddings.create(model=model, input=["one", "two"])
models = [each.id for each in ai.models.list()]
assert whole.usage.completion_tokens == text.usage.completion_tokens == 8
assert streamed == whole.choices[0].message.content != ""
assert len(vectors.data) == 2
assert models == [model]
try:
    ai.with_options(api_key="wrong").completions.create(model=model, prompt="Hello")
except openai.AuthenticationError as error:
    refused = type(error).__name__
else:
    sys.exit("a wrong key was taken")
size = len(vectors.data[0].embedding)
print(f"8 tokens, {len(events)} events with the same text, 8 tokens, 2 x {size}, {models}, {refused}")
