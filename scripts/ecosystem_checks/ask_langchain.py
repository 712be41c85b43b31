"""LangChain's ChatOpenAI: URL KEY MODEL -> what came back, on one line. Runs where `langchain-openai` is."""

import sys

from langchain_openai import ChatOpenAI

url, key, model = sys.argv[1:]
chat = ChatOpenAI(base_url=f"{url}/v1", api_key=key, model=model, max_tokens=8, max_retries=0)

whole = chat.invoke("Hello")
chunks = [chunk.content for chunk in chat.stream("Hello")]
assert whole.usage_metadata["output_tokens"] == 8
assert "".join(chunks) == whole.content != ""
print(f"8 tokens, {len(chunks)} chunks with the same text")
