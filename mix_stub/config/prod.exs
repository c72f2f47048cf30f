import Config

# No pool by default: an application that uses DSPex names the interpreter and the model in its own configuration, for
# instance
#
#     config :dspex, DSPex.Python,
#       pools: [
#         general: [
#           python: "/srv/app/.venv/bin/python",
#           model: {:openai, model: "gpt-4o-mini", api_key: {:system, "OPENAI_API_KEY"}}
#         ]
#       ]
