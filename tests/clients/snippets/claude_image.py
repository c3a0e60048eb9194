#!/usr/bin/env python3
import base64
from openai import OpenAI

def main():
    api_key = "YOUR_API_KEY"
    client = OpenAI(
        api_key=api_key,
        base_url="https://broker.example/v1"
    )
    image_path = "Path/to/agi/image.jpeg"
    with open(image_path, "rb") as f:
        image_bytes = f.read()
    base64_image = base64.b64encode(image_bytes).decode("utf-8")
    image_url = f"data:image/jpeg;base64,{base64_image}"
    response = client.chat.completions.create(
        model="claude-haiku-4-5-20251001",
        messages=[{
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this image?"},
                {"type": "image_url", "image_url": {"url": image_url}}
            ]
        }]
    )
    print(response.choices[0].message.content)

if __name__ == "__main__":
    main()
