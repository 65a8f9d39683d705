"""The name of the classifier's service, for modules that must not import its methods."""

from __future__ import annotations

from convoy.v1 import image_classifier_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name
