#include "server/grpc/health.h"

#include "kascade/v1/calibration_service.grpc.pb.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "kascade/v1/server_service.grpc.pb.h"
#include "spdlog/spdlog.h"

namespace kascade::server {
namespace {

constexpr auto kTick = std::chrono::seconds(1);

}  // namespace

Health::Health(const Engine& engine, std::chrono::seconds patience)
    : engine_(engine), stalls_(patience) {}

Health::~Health() { stop(); }

void Health::start(grpc::HealthCheckServiceInterface& service, const net::Acceptor& acceptor) {
  service_ = &service;
  acceptor_ = &acceptor;
  service_->SetServingStatus(kLiveness, true);
  set_ready(true);
  thread_ = std::thread([this] { run(); });
}

void Health::set_unready() {
  if (service_ != nullptr) set_ready(false);
}

void Health::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Health::set_ready(bool ready) {
  ready_ = ready;
  service_->SetServingStatus("", ready);
  service_->SetServingStatus(v1::InferenceService::service_full_name(), ready);
  service_->SetServingStatus(v1::CalibrationService::service_full_name(), ready);
  service_->SetServingStatus(v1::ServerService::service_full_name(), ready);
}

void Health::run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kTick, [this] { return stopping_; })) {
    lock.unlock();
    look();
    lock.lock();
  }
}

void Health::look() {
  const EngineStats stats = engine_.stats();
  const bool was_stalled = stalls_.stalled();
  const bool stalled =
      stalls_.observe(stats, engine_.layers_computed(), std::chrono::steady_clock::now());
  if (stalled && !was_stalled) {
    spdlog::error("the engine has made no progress for {} s; {} sequences run, {} wait",
                  stalls_.standstill().count(), stats.running, stats.waiting);
  }
  if (was_stalled && !stalled) spdlog::info("the engine makes progress again");
  stalled_ = stalled;
  const bool live = !stalled && acceptor_->accepting();
  if (live == live_) return;
  if (!live && !stalled) spdlog::error("no connection can be accepted");
  live_ = live;
  service_->SetServingStatus(kLiveness, live);
}

}  // namespace kascade::server
