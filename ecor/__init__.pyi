from . import demo as demo
from . import explain as explain
from .checkpoint import load as load
from .config.model import BackboneConfig as BackboneConfig
from .config.model import PromptConfig as PromptConfig
from .config.model import TemplateConfig as TemplateConfig
from .config.model import TextConfig as TextConfig
from .config.scoring import ScoringConfig as ScoringConfig
from .data.heatmap import Heatmap as Heatmap
from .data.predictions.parts import read_predictions as read_predictions
from .data.predictions.prediction_list import Predictions as Predictions
from .data.predictions.records import ExplainablePrediction as ExplainablePrediction
from .data.vocabulary import Vocabulary as Vocabulary
from .data.vocabulary import read_vocabulary as read_vocabulary
from .evaluation.table_evaluation import evaluate as evaluate
from .explain.joint_heatmaps import explain_joint as explain_joint
from .explain.methods.registry import METHODS as METHODS
from .model import Recognizer as Recognizer

__version__: str
