"""The only asynchronous orchestration: it carries out what `zarrvec.layout` decides, on `zarrvec.objects`."""
