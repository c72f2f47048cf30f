import Config

# A pool is one Python process. Its model is given here once, for every call that names no other; see DSPex.Python.Pool.
import_config "#{config_env()}.exs"
