from django.urls import path

from enrollment.api import EnrollView

urlpatterns = [path("enroll", EnrollView.as_view(), name="enroll")]
