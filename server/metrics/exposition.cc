#include "server/metrics/exposition.h"

#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace kascade::metrics {

absl::StatusOr<std::unique_ptr<Listener>> Listener::start(
    const std::string& address, const ServerMetrics& metrics,
    std::shared_ptr<prometheus::Collectable> engine) {
  std::unique_ptr<Listener> listener(new Listener());
  listener->engine_ = std::move(engine);
  try {
    listener->exposer_ = std::make_unique<prometheus::Exposer>(address);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
  const std::vector<int> ports = listener->exposer_->GetListeningPorts();
  if (!ports.empty()) listener->port_ = ports.front();
  listener->exposer_->RegisterCollectable(metrics.registry);
  listener->exposer_->RegisterCollectable(listener->engine_);
  return listener;
}

std::string exposition_text(const ServerMetrics& metrics, const prometheus::Collectable& engine) {
  const prometheus::TextSerializer serializer;
  return serializer.Serialize(metrics.registry->Collect()) + serializer.Serialize(engine.Collect());
}

}  // namespace kascade::metrics
