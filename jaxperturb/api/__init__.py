"""The library's public calls: run a study, measure a network, lesion it, read a study."""

from jaxperturb.api.evaluation import Agreement as Agreement
from jaxperturb.api.evaluation import Evaluation as Evaluation
from jaxperturb.api.evaluation import compare_precisions as compare_precisions
from jaxperturb.api.evaluation import evaluate as evaluate
from jaxperturb.api.lesions import fault_list as fault_list
from jaxperturb.api.lesions import lesion as lesion
from jaxperturb.api.measurements import activations as activations
from jaxperturb.api.measurements import mean_activations as mean_activations
from jaxperturb.api.measurements import saliency as saliency
from jaxperturb.api.studies import preview as preview
from jaxperturb.api.studies import sweep as sweep
from jaxperturb.show.results import load_results as load_results
