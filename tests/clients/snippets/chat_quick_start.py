from openai import OpenAI
client = OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://broker.example/v1"
)
response = client.chat.completions.create(
    model="openai/gpt-4o",
    messages=[{"role": "user", "content": "Hello, how are you?"}],
    max_tokens=100,
    temperature=0.7
)
print(response.choices[0].message.content)
