import Config

config :dspex, DSPex.Python,
  pools: [
    general: [python: Path.expand("../../.venv/bin/python", __DIR__), model: :embedded]
  ]
