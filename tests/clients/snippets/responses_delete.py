from openai import OpenAI
client = OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://broker.example/v1"
)

# Create a response
response = client.responses.create(
    model="openai/o1-pro",
    input="Tell me a story."
)

# Delete it
delete_response = client.responses.delete(response.id)
print(delete_response)
