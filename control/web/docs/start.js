// Relative, so that the page also works below a path of a proxy.
SwaggerUIBundle({
  url: '../openapi.json',
  dom_id: '#api',
  deepLinking: true,
  validatorUrl: null,
});
