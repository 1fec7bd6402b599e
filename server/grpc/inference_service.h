// The RPCs of kascade.v1.InferenceService.
#ifndef KASCADE_SERVER_GRPC_INFERENCE_SERVICE_H_
#define KASCADE_SERVER_GRPC_INFERENCE_SERVICE_H_

#include "kascade/v1/inference_service.grpc.pb.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  // `context` must outlive the service.
  explicit InferenceService(ServerContext& context) : context_(context) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::ScoreResponse>* Score(grpc::CallbackServerContext* context,
                                                     const v1::ScoreRequest* request) override;
  grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreResponse>* ScoreStream(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::TraceResponse>* Trace(grpc::CallbackServerContext* context,
                                                     const v1::TraceRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;

 private:
  ServerContext& context_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_INFERENCE_SERVICE_H_
