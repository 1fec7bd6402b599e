// Prints a trace: which keys a query attends to in each layer.
#ifndef KASCADE_CLIENT_VIEWS_TRACE_VIEW_H_
#define KASCADE_CLIENT_VIEWS_TRACE_VIEW_H_

#include <string>
#include <vector>

#include "client/views/reports.h"
#include "kascade/v1/trace.pb.h"

namespace kascade::client {

// The contents of the stream; layers and maps are whole.
struct TraceRun {
  std::string file{};
  v1::TraceStarted started{};
  std::vector<v1::LayerTrace> layers{};
  std::vector<v1::TraceMap> maps{};
  v1::TraceFinished finished{};
};

// Adds a message of the stream; a part of a layer or map joins the one before it.
void add_layer(v1::LayerTrace layer, TraceRun& run);
void add_map(v1::TraceMap map, TraceRun& run);

// Prints at most `most` selected tiles or runs of keys of each head; 0: all.
std::string trace_text(const TraceRun& run, int most);
// All that the stream told; the maps only if `maps`.
Json trace_json(const TraceRun& run, bool maps);
// "L2 anchor", "L3 reuses L2, head map 1 0".
std::string layer_title(const v1::LayerTrace& layer);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_TRACE_VIEW_H_
