curl https://broker.example/v1/chat/completions \
-H "Authorization: Bearer YOUR_API_KEY" \
-H "Content-Type: application/json" \
-d '{
"model": "deepseek/deepseek-v3",
"provider": {
"sort": "price",
"compliance": "AE"
},
"messages": [{"role": "user", "content": "Hello!"}]
}'
