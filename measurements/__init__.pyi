from measurements.api import Host as Host
from measurements.api import Predictor as Predictor
from measurements.api import predict as predict
from measurements.platforms import Platform as Platform
from measurements.platforms import PlatformPrediction as PlatformPrediction
from measurements.platforms import RegisterEvent as RegisterEvent
from measurements.shape import MachineShape as MachineShape
