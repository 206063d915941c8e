from django.urls import path

from training.api import (
    BlobView,
    EvaluationView,
    GlobalModelView,
    ProgressView,
    SubmitModelView,
    UploadsView,
    UploadView,
    WorkView,
)

urlpatterns = [
    path("work", WorkView.as_view(), name="work"),
    path("evaluation", EvaluationView.as_view(), name="evaluation"),
    path("progress", ProgressView.as_view(), name="progress"),
    path("global_model", GlobalModelView.as_view(), name="global-model"),
    path("submit_model", SubmitModelView.as_view(), name="submit-model"),
    path("uploads", UploadsView.as_view(), name="uploads"),
    path("uploads/<str:upload_id>", UploadView.as_view(), name="upload"),
    path("blobs/<str:digest>", BlobView.as_view(), name="blob"),
]
