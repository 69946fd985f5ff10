-- How Argo CD tells the health of an UpgradePlan. It belongs into the ConfigMap argocd-cm, as the value of
-- resource.customizations.health.liftlock.dev_UpgradePlan
-- (https://argo-cd.readthedocs.io/en/stable/operator-manual/health/#custom-health-checks).
local seen = obj.status ~= nil and obj.status.observedGeneration == obj.metadata.generation
if not seen then
  return { status = "Progressing", message = "the coordinator has not looked at this spec yet" }
end
local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end
local function is(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end
local message = conditions["Ready"] ~= nil and conditions["Ready"].message or ""
if is("Ready") then
  return { status = "Healthy", message = message }
end
if is("Stalled") then
  return { status = "Degraded", message = message }
end
if obj.status.phase == "Paused" then
  return { status = "Suspended", message = message }
end
return { status = "Progressing", message = message }
