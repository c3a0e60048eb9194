#!/usr/bin/env python3
from openai import OpenAI

def main():
    api_key = "YOUR_API_KEY"
    client = OpenAI(
        api_key=api_key,
        base_url="https://broker.example/v1"
    )
    response = client.chat.completions.create(
        model="claude-haiku-4-5-20251001",
        messages=[
            {"role": "user", "content": "Hello, can you explain quantum mechanics to me?"}
        ]
    )
    print(response.choices[0].message.content)

if __name__ == "__main__":
    main()
