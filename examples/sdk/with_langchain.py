"""Meter LangChain, which lets its models build their clients: `instrument_all`.

python examples/sdk/with_langchain.py      (reads OPENAI_API_KEY)
"""

from langchain_openai import ChatOpenAI

from meterd_middleware import Meter, instrument_all, tagged


def main() -> None:
    """Make one call, one stream."""
    with Meter(service="with-langchain") as meter:
        instrument_all(meter)
        model = ChatOpenAI(model="gpt-5.4-mini", stream_usage=True)

        with tagged(client="acme-corp", project="content-generator"):
            print(model.invoke("Draft a headline.").text)
            for chunk in model.stream("Draft another."):
                print(chunk.text, end="")
            print()


if __name__ == "__main__":
    main()
