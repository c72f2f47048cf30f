import Config

# A pool is one Python process. Its model is used by every call that names no other model; see DSPex.Python.Pool.
import_config "#{config_env()}.exs"
