from . import demo as demo
from . import explain as explain
from .checkpoint import load as load
from .config import BackboneConfig as BackboneConfig
from .config import PromptConfig as PromptConfig
from .config import ScoringConfig as ScoringConfig
from .config import TemplateConfig as TemplateConfig
from .config import TextConfig as TextConfig
from .evaluation import evaluate as evaluate
from .explain.explainer import explain_joint as explain_joint
from .explain.heatmap import Heatmap as Heatmap
from .explain.methods import METHODS as METHODS
from .model import Predictions as Predictions
from .model import Recognizer as Recognizer
from .predictions import ExplainablePrediction as ExplainablePrediction
from .predictions import read_predictions as read_predictions
from .vocabulary import Vocabulary as Vocabulary
from .vocabulary import read_vocabulary as read_vocabulary

__version__: str
