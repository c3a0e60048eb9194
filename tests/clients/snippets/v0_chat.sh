curl https://broker.example/v0/chat/completions \
-H "Authorization: Bearer YOUR_API_KEY" \
-H "Content-Type: application/json" \
-d '{
"model": "gpt-4o@openai",
"messages": [{"role": "user", "content": "Hello"}],
"temperature": 0.5,
"signature": "python",
"use_custom_keys": false,
"tags": "one,two",
"drop_params": true,
"region": null,
"log_query_body": false,
"log_response_body": false
}'
