// Writes tests/golden/ttree_kinds.root: the kinds of branches that ROOT writes and uproot cannot. Made by ROOT 6.40 with
//   root -b -q 'make_ttree_kinds.C("ttree_kinds.root")'
// Every value follows from the number of its entry, so that tests compare with arithmetic and not with another reader.
// "elsewhere.root" is written beside it and not kept: that its baskets are not there is what is tested.

#include "TBranch.h"
#include "TClonesArray.h"
#include "TFile.h"
#include "TLorentzVector.h"
#include "TTree.h"
#include "ROOT/TIOFeatures.hxx"

struct Leaves { int a; float b; double c; float d[3]; short e; };

void kinds() {
  TTree t("kinds", "kinds of branches");
  t.SetAutoFlush(40);
  Leaves leaves; bool flags[2][3]; int n; float x[10]; double y[10][2]; unsigned char un; short z[10];
  std::vector<float> v; std::vector<bool> vb; std::vector<std::vector<int>> vv; std::string text; double packed; float half;
  TLorentzVector *split = new TLorentzVector(), *dotted = new TLorentzVector();
  TClonesArray clones("TLorentzVector", 10); TClonesArray *pointer = &clones;
  t.Branch("rec", &leaves, "a/I:b/F:c/D:d[3]/F:e/S");
  t.Branch("flags", flags, "flags[2][3]/O");
  t.Branch("n", &n, "n/I"); t.Branch("x", x, "x[n]/F"); t.Branch("y", y, "y[n][2]/D");
  t.Branch("un", &un, "un/b"); t.Branch("z", z, "z[un]/S");
  t.Branch("v", &v); t.Branch("vb", &vb); t.Branch("vv", &vv); t.Branch("text", &text);
  t.Branch("p4", &split, 32000, 99); t.Branch("q4.", &dotted, 32000, 99); t.Branch("ca", &pointer, 32000, 99);
  t.Branch("double32", &packed, "double32/d[0,128,12]"); t.Branch("float16", &half, "float16/f[0,128,10]");
  for (int i = 0; i < 100; i++) {
    leaves = {i, i / 2.f, i / 4., {i + 0.f, i + 1.f, i + 2.f}, (short)-i};
    for (int j = 0; j < 6; j++) flags[j / 3][j % 3] = (i >> j) & 1;
    n = i % 4; un = i % 3;
    for (int j = 0; j < n; j++) { x[j] = i + j / 8.f; y[j][0] = i + j; y[j][1] = i - j; }
    for (int j = 0; j < un; j++) z[j] = i * j;
    v.assign(x, x + n); vb.assign(n, i % 2); vv.assign(n, std::vector<int>(un, i)); text = std::to_string(i);
    split->SetPxPyPzE(i, i + 1, i + 2, i + 3); dotted->SetPxPyPzE(-i, -i - 1, -i - 2, -i - 3);
    clones.Clear();
    for (int j = 0; j < n; j++) new (clones[j]) TLorentzVector(i, j, i + j, i - j);
    packed = i; half = i;
    t.Fill();
  }
  t.Write();
}

void lists(const char *name, bool flush, bool bare) {
  TTree t(name, "lists");
  t.SetAutoFlush(flush ? 40 : 0);
  if (bare) {
    ROOT::TIOFeatures features;
    features.Set(ROOT::Experimental::EIOFeatures::kGenerateOffsetMap);
    t.SetIOFeatures(features);
  }
  int n; float x[10]; double w;
  t.Branch("n", &n, "n/I", 600); t.Branch("x", x, "x[n]/F", 700); t.Branch("w", &w, "w/D", 500);
  for (int i = 0; i < 100; i++) {
    n = i % 4; w = i / 4.;
    for (int j = 0; j < n; j++) x[j] = i + j / 8.f;
    t.Fill();
  }
  t.Write();
}

void gaps() {
  TTree t("gaps", "branches that are not all there");
  double w = 0, less = 0, away = 0;
  t.Branch("w", &w, "w/D");
  t.Branch("away", &away, "away/D")->SetFile("elsewhere.root");
  for (int i = 0; i < 20; i++) { w = i; t.Fill(); }
  TBranch *branch = t.Branch("less", &less, "less/D");
  for (int i = 0; i < 15; i++) branch->Fill();
  t.Write();
}

void make_ttree_kinds(const char *path) {
  gInterpreter->GenerateDictionary("vector<vector<int> >", "vector");
  TFile file(path, "RECREATE", "", 101);
  kinds();
  lists("bare", true, true);
  lists("unaligned", false, false);
  gaps();
  file.Close();
}
