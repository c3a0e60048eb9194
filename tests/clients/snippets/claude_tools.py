#!/usr/bin/env python3
import json
from openai import OpenAI

def main():
    api_key = "YOUR_API_KEY"
    client = OpenAI(
        api_key=api_key,
        base_url="https://broker.example/v1"
    )
    tools = [{
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {
                        "type": "string",
                        "description": "The city and state, e.g. San Francisco, CA"
                    },
                    "unit": {
                        "type": "string",
                        "enum": ["celsius", "fahrenheit"]
                    }
                },
                "required": ["location"]
            }
        }
    }]
    response = client.chat.completions.create(
        model="claude-haiku-4-5-20251001",
        messages=[
            {"role": "user", "content": "What's the weather like in Boston today?"}
        ],
        tools=tools,
        tool_choice="auto"
    )
    msg = response.choices[0].message
    if msg.tool_calls:
        for call in msg.tool_calls:
            print(f"Function called: {call.function.name}")
            print(f"Arguments JSON: {call.function.arguments}")
            args = json.loads(call.function.arguments)
            print(f"Parsed args: {args}")
    else:
        print(f"Assistant reply: {msg.content}")

if __name__ == "__main__":
    main()
